"""A scorer as an ONNX file: torch's exporter writes it, and onnxruntime computes its scores for a comparison.

optimum is not used: its ONNX part needs a transformers that is older than r0's. The folder has the file names that optimum and
sentence-transformers expect (``model.onnx`` beside configuration and tokenizer).
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from r0.errors import UserError, reason
from r0.export.card import onnx_card
from r0.export.sequence_classifier import PAIRS, TOLERANCE, as_classifier, keep_bare, messages
from r0.export.yes_no import read_yes_no
from r0.rerank.two_labels import label_count
from r0.storage.cross_encoder_files import SETTINGS, SIGMOID
from r0.storage.files import whole_folder, write_atomic
from r0.storage.loading import LOADING, load_model
from r0.storage.model_checks import architecture, quantization, read_json
from r0.text.tokenizer import open_tokenizer

FILE = "model.onnx"
NEEDED = ("onnxscript", "onnxruntime")
SHORT = PAIRS[:1]  # what the graph is traced with, in a batch of two


def check_onnx(folder: Path, thinking: bool | None) -> None:
    """Refuse what cannot be written as ONNX; loads no weights.

    Raises:
        UserError: a package is missing, or the model gives no single score per pair.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"to: onnx needs {' and '.join(missing)}; install them with `pip install {' '.join(missing)}`")
    if not architecture(folder).endswith("ForSequenceClassification"):
        read_yes_no(folder, thinking)
        return
    if method := quantization(folder):
        raise UserError(f"model: {folder} is quantized ({method}), which cannot be written as ONNX; give the original model")
    if (labels := label_count(folder)) != 1:
        raise UserError(f"model: {folder} gives {labels} scores per pair; finetune it with r0, which makes them one")


def write_onnx(name: str, folder: Path, output: Path, thinking: bool | None) -> float:
    """Write the model in float32 to ``output``, and compare the scores that onnxruntime computes with torch's.

    Args:
        name: of the model, for the card.
        folder: of the model.
        output: a folder that does not exist, or is empty.
        thinking: as for ``read_yes_no``.

    Returns:
        The largest difference of two scores (before the activation).

    Raises:
        UserError: torch cannot export the model, or the scores differ; the folder cannot be written.
    """
    model, tokenizer, activation = _scorer(folder, thinking)
    model.config.use_cache = False
    names = [name for name in tokenizer.model_input_names if name in inspect.signature(model.forward).parameters]
    with whole_folder(output) as partial:
        _export(model, encoded(tokenizer, [*SHORT, *PAIRS[1:2]], names), folder, partial / FILE)
        model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        template = writes_pairs(tokenizer)
        write_atomic(partial / "README.md", onnx_card(name, folder, output.name, activation, template).encode())
        with torch.inference_mode():
            expected = [model(**encoded(tokenizer, [pair], names)).logits[0, 0].item() for pair in PAIRS]
        found = onnx_scores(partial / FILE, encoded(tokenizer, PAIRS, names))
        largest = max(abs(one - other) for one, other in zip(found, expected, strict=True))
        if not largest <= TOLERANCE * max(1.0, *map(abs, expected)):
            raise UserError(f"model: onnxruntime gives other scores for {folder} (a difference of {largest:.2g}); use `r0 serve`")
    return largest


def onnx_scores(file: Path, inputs: dict[str, torch.Tensor]) -> list[float]:
    """[N] the scores that onnxruntime computes on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})[0][:, 0].tolist()


def encoded(tokenizer: Any, pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The pairs as one padded batch: by the chat template if it writes pairs, else as the tokenizer joins two texts."""
    if writes_pairs(tokenizer):
        texts = [tokenizer.apply_chat_template(messages(*pair), tokenize=False) for pair in pairs]
        batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    else:
        queries, documents = zip(*pairs, strict=True)
        batch = tokenizer(list(queries), list(documents), padding=True, return_tensors="pt")
    return {name: batch[name] for name in names}


def writes_pairs(tokenizer: Any) -> bool:
    """Whether the tokenizer's chat template has the role ``document``."""
    return isinstance(tokenizer.chat_template, str) and "document" in tokenizer.chat_template


def _scorer(folder: Path, thinking: bool | None) -> tuple[Any, Any, str]:
    """The sequence classifier in float32, its tokenizer, and the activation of its score."""
    if architecture(folder).endswith("ForSequenceClassification"):
        tokenizer = open_tokenizer(folder, pads=True)
        activation = str(read_json(folder / SETTINGS).get("activation_fn") or SIGMOID)
        return load_model(AutoModelForSequenceClassification, folder, dtype=torch.float32).eval(), tokenizer, activation
    score = read_yes_no(folder, thinking)
    keep_bare(score.tokenizer, folder)
    model = load_model(AutoModelForCausalLM, folder, dtype=torch.float32)
    return as_classifier(model, score, folder), score.tokenizer, score.activation


class _Logits(torch.nn.Module):
    """A model as a function of its inputs, in the order of ``names``, to its logits."""

    def __init__(self, model: Any, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """[batch, 1] the scores."""
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def _export(model: Any, inputs: dict[str, torch.Tensor], folder: Path, file: Path) -> None:
    """Write the graph; batch and length are free.

    Raises:
        UserError: torch cannot export this architecture.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(model, list(inputs)).eval(),
                tuple(inputs.values()),
                file,
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_shapes=(tuple(free for _ in inputs),),
                external_data=sum(one.numel() for one in model.parameters()) * 4 > 2**30,  # a file of ONNX holds 2 GB
            )
    except (torch.onnx.errors.OnnxExporterError, *LOADING) as error:
        first = reason(error).splitlines()[0]
        raise UserError(f"model: torch cannot write {folder} as ONNX ({first}); use to=sequence_classification") from error
