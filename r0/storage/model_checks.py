"""Reads a model's config.json and checks whether the model can be used for a task; loads no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from r0.errors import UserError
from r0.storage.weight_files import check_pointers, check_weight_files, has_weights, refuse_gguf, stored_tensors

QUANTIZERS = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}  # by their files
ADAPTER = "adapter_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer.model.v3", "tekken.json", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "spm.model", "vocab.spm",
)  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the model's folder; empty if the file does not exist.

    Raises:
        UserError: the file is not valid JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"model: {path} is not valid JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def model_config(folder: Path) -> dict[str, Any]:
    """A model's config.json.

    Raises:
        UserError: the file is missing or not valid JSON.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"model: {folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"model: {folder / 'config.json'} contains no JSON object; download the model again")
    return content


def architecture(folder: Path) -> str:
    """The class name of a model, such as ``Qwen3ForCausalLM``; empty if config.json has none.

    Raises:
        UserError: config.json is missing or not valid JSON.
    """
    return str(next(iter(model_config(folder).get("architectures") or []), ""))


def generates(folder: Path) -> bool:
    """Whether a model is a decoder with an output head, by its class; a class unknown to transformers is judged by its name.

    Raises:
        UserError: config.json is missing or not valid JSON.
    """
    from transformers.models.auto import modeling_auto as known

    name = architecture(folder)
    decoders = {*known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), *known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()}
    return name in decoders or name.endswith("ForCausalLM")


def check_writes(folder: Path) -> None:
    """Refuse a model that cannot generate text; transformers would load it with a randomly initialized head.

    Raises:
        UserError: its configuration names another kind of model.
    """
    if (name := architecture(folder)) and not generates(folder):
        raise UserError(f"model: {folder.name} is a {name}, which generates no text; use a causal language model, or finetune it")


def quantization(folder: Path) -> str:
    """The method by which a model's weights are quantized, such as ``fp8`` or ``gptq``; empty if they are not.

    Raises:
        UserError: a configuration is not valid JSON, or a weight file is damaged.
    """
    config = read_json(folder / "config.json")
    for one in (config, config.get("text_config") or {}):
        for key in ("quantization_config", "compression_config"):
            if stated := one.get(key):
                return _method(stated)
    if method := next((method for name, method in QUANTIZERS.items() if (folder / name).is_file()), ""):
        return method
    return next((one.dtype for name, one in stored_tensors(folder).items() if _packed(name, one.dtype)), "")


def _method(stated: Any) -> str:
    if not isinstance(stated, dict):
        return "by an unknown method"
    bits = next((f"{bits}-bit" for bits in (4, 8) if stated.get(f"load_in_{bits}bit")), "")
    return str(stated.get("quant_method") or bits or "by an unknown method")


def _packed(name: str, dtype: str) -> bool:
    """Whether a stored tensor is a weight in a type that nothing is trained in."""
    return dtype.startswith(("F8_", "F6_", "F4")) or (dtype in ("I8", "U8", "I32") and name.endswith("weight"))


def check_unquantized(folder: Path) -> None:
    """Refuse a quantized model where weights are trained.

    Raises:
        UserError: with its method and the remedy.
    """
    if method := quantization(folder):
        raise UserError(
            f"model: {folder.name} is quantized ({method}), and such weights cannot be trained; give the original model in bf16"
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no whole model: an adapter, files that were not downloaded, no tokenizer.

    Raises:
        UserError: with the file and the remedy.
    """
    check_pointers(folder)
    _check_adapter(folder)
    if not has_weights(folder):
        refuse_gguf(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"model: {folder} contains no config.json, so it is not a Hugging Face model folder; give another")
    _check_code(folder)
    check_weight_files(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS) and not any(folder.glob("*.tiktoken")):
        raise UserError(
            f"model: {folder} contains no tokenizer (tokenizer.json); copy the tokenizer files of the model it was made from"
        )


def _check_code(folder: Path) -> None:
    """Refuse a model or tokenizer whose classes are Python files of the folder: transformers would ask on the terminal whether to
    run them, and r0 runs no code that a model brings along."""
    config = model_config(folder)
    if "auto_map" in config:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        if config.get("model_type") not in CONFIG_MAPPING_NAMES:
            raise UserError(
                f"model: {folder}/config.json names classes in Python files of the folder, which r0 does not run, and the "
                f"installed transformers has no model type {config.get('model_type')!r}; give a model whose type it has"
            )
    stated = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    if "auto_map" in stated:
        import transformers

        if not hasattr(transformers, str(stated.get("tokenizer_class"))):
            raise UserError(
                f"model: {folder}/{TOKENIZER_CONFIG} names a tokenizer in a Python file of the folder, which r0 does not run; "
                "save the tokenizer as tokenizer.json (transformers: PreTrainedTokenizerFast) and remove auto_map"
            )


def _check_adapter(folder: Path) -> None:
    if not (folder / ADAPTER).is_file():
        return
    if (folder / "config.json").is_file() and has_weights(folder):
        raise UserError(
            f"model: {folder} contains {ADAPTER} beside the weights of a model, and libraries differ in whether they add such an "
            "adapter; merge it (peft: merge_and_unload), or move the files of the adapter to a folder of their own"
        )
    base = read_json(folder / ADAPTER).get("base_model_name_or_path") or "its base model"
    merged = folder.parent / "model"
    remedy = f"merge the two (peft: merge_and_unload) and give the merged folder, or give {base}"
    if (merged / "config.json").is_file():
        remedy = f"give {merged}, which has it merged, or {base}"
    raise UserError(f"model: {folder} is an adapter of {base}, not a model; {remedy}")
