"""Loads a model with transformers, every weight from its files: nothing is drawn at random that the files should hold."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from r0.errors import UserError, reason
from r0.storage.model_checks import architecture, quantization, read_json
from r0.storage.weight_files import read_tensor, some, stored_tensors

logger = logging.getLogger(__name__)

# What transformers, sentence-transformers and torch raise for a folder that they cannot load.
LOADING = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError)
POOLER = ".pooler."  # of an encoder: made anew where the files are of a model without one


def load_model(kind: Any, folder: str | Path, **options: Any) -> Any:
    """The model in ``folder``.

    Whether input and output embeddings are one tensor is then also what its configuration says. A language model's logits are
    float32 in any precision (``output_head``).

    Args:
        kind: a class of transformers with ``from_pretrained``, such as ``AutoModelForCausalLM``.
        folder: of the model.
        options: for ``from_pretrained``.

    Raises:
        UserError: it cannot be loaded, its files lack weights, or a weight is not finite.
    """
    from r0.storage.output_head import exact_logits

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"model: {folder} cannot be loaded: there is no such folder")
    untied = own_head(kind, folder)
    model, info = _load(kind, folder, **untied, **options)
    _check_complete(info, folder)
    state_tying(model)
    if untied and model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        raise UserError(
            f"model: the output head of {folder} is not its input embedding, though its config.json says so; set "
            "tie_word_embeddings to false there, or use another zero_stage"
        )
    check_finite(model, folder)
    exact_logits(model)
    return model


def check_loads(kind: Any, folder: Path, new_head: bool = False, body: bool = False) -> Any:
    """What ``load_model`` would find of the files' names and shapes; reads no weight. Tensors that are not used are logged.

    Args:
        kind: a class of transformers with ``from_pretrained``.
        folder: of the model.
        new_head: whether a head that the files lack is to be drawn at random.
        body: whether only the body is wanted, so that the files may hold any head.

    Returns:
        The model without weights, on torch's meta device.

    Raises:
        UserError: as ``load_model``; the shapes are not those of config.json.
    """
    model, info = _load(kind, folder, device_map="meta", ignore_mismatched_sizes=True)
    if mismatched := sorted(info["mismatched_keys"], key=str):
        name, stored, wanted = mismatched[0]
        raise UserError(
            f"model: config.json of {folder} does not give the shape of {_count(mismatched)}, such as {name}, which is "
            f"{_shape(stored)} instead of {_shape(wanted)}; {_MEND}"
        )
    missing = info["missing_keys"]
    allowed = {name for name in missing if POOLER in f".{name}"} if new_head or body else set()
    _check_complete(info, folder, allowed | (_head(model, missing) if new_head else set()))
    if (unused := sorted(info["unexpected_keys"])) and not (body or new_head):
        logger.warning("model: a %s leaves out %s of %s: %s", type(model).__name__, _count(unused), folder, some(unused))
    return model


_MEND = "download the model again, or give the config.json that belongs to the weights"


def model_class(folder: Path) -> Any:
    """The class of transformers that a model's configuration names; None where transformers has none of that name.

    Raises:
        UserError: transformers cannot read config.json, though it has the class.
    """
    import transformers

    kind = getattr(transformers, architecture(folder) or "?", None)
    if kind is not None:
        try:
            transformers.AutoConfig.from_pretrained(folder)
        except LOADING as error:
            raise UserError(f"model: {folder} cannot be loaded: {reason(error)}") from error
    return kind


def attention(folder: Path) -> dict[str, str]:
    """Options of ``from_pretrained`` for a model that caps its attention logits, as Gemma 2 does: transformers' default, torch's
    kernel, leaves the cap out without a word."""
    config = read_json(folder / "config.json")
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    return {"attn_implementation": "eager"} if any(part.get("attn_logit_softcapping") for part in parts) else {}


def state_tying(model: Any) -> None:
    """Write into a model's configuration whether its output head is its input embedding."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is None or head.weight is embedding.weight:
        return
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def own_head(kind: Any, folder: Path) -> dict[str, bool]:
    """Options of ``from_pretrained`` for files whose output head has other values than the input embedding, to which config.json
    ties it. Empty where transformers finds out by itself: ZeRO-3 splits weights while they are loaded, and it cannot compare
    what is split.
    """
    import torch
    from transformers import AutoConfig
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    if not is_deepspeed_zero3_enabled():
        return {}
    config = AutoConfig.from_pretrained(folder)
    made = kind._model_mapping[type(config)] if hasattr(kind, "_model_mapping") else kind
    stored = stored_tensors(folder) if getattr(config, "tie_word_embeddings", False) else {}
    for pair in (getattr(made, "_tied_weights_keys", None) or {}).items():
        ends = [".".join(name.split(".")[-2:]) for name in pair]
        names = [next((name for name in stored if f".{name}".endswith(f".{end}")), None) for end in ends]
        if None not in names and not torch.equal(*(read_tensor(folder, str(name)) for name in names)):
            return {"tie_word_embeddings": False}
    return {}


def check_finite(model: Any, folder: Path) -> None:
    """Refuse weights that are no numbers. Of weights that ZeRO-3 has split, a rank looks at its own part.

    Raises:
        UserError: with the tensor's name.
    """
    import torch

    trained = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = _own_part(parameter)
            if tensor.dtype in trained and tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
                raise UserError(f"model: {name} of {folder} contains NaN or infinite values; give a sound copy of the model")


def _own_part(parameter: Any) -> Any:
    """A parameter, or this rank's part of one that ZeRO-3 has split, without what fills the last part up: nobody writes that."""
    import torch

    part = getattr(parameter, "ds_tensor", None)
    if part is None:
        return parameter
    left = parameter.ds_numel - torch.distributed.get_rank() * part.numel()
    return part.flatten()[: max(0, left)]


def _load(kind: Any, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    try:
        with _without_report():
            return kind.from_pretrained(folder, output_loading_info=True, **{**attention(folder), **options})
    except Exception as error:
        refuse_quantized(folder, error)
        if isinstance(error, LOADING):
            raise UserError(f"model: {folder} cannot be loaded: {reason(error)}") from error
        raise


def refuse_quantized(folder: Path, error: Exception) -> None:
    """Say of a quantized model that a library does not load it; of another one nothing.

    Raises:
        UserError: with the method, the library's reason and the remedy.
    """
    if method := quantization(folder):
        raise UserError(
            f"model: {folder} is quantized ({method}) and cannot be loaded here ({reason(error)}); give the original model in "
            "bf16, or rank with another rollout.engine"
        ) from error


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Inside, transformers prints no table of the weights and no progress."""
    from transformers.utils import logging as transformers_logging

    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _check_complete(info: dict[str, Any], folder: Path, allowed: Collection[str] = ()) -> None:
    missing = sorted(set(info["missing_keys"]) - set(allowed))
    if missing:
        raise UserError(f"model: the files of {folder} lack {_count(missing)}: {some(missing)}; {_MEND}")


def _head(model: Any, names: Collection[str]) -> set[str]:
    """Those of ``names`` that are no part of a model's body."""
    body = f"{model.base_model_prefix}."
    return {name for name in names if not name.startswith(body)}


def _count(names: Collection[object]) -> str:
    return f"{len(names)} weight{'s' * (len(names) > 1)}"


def _shape(shape: Any) -> str:
    return "×".join(map(str, shape))
