"""Locates a model's files: the embedded r0-tiny, a folder, or a name on the Hugging Face Hub."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from r0.errors import UserError, reason
from r0.storage.model_checks import check_folder
from r0.storage.weight_files import has_weights, is_gguf, refuse_gguf

EMBEDDED = ("r0-tiny",)


def model_folder(name: str) -> Path:
    """The folder with the model's configuration, weights and tokenizer; a Hub name is downloaded, or found in the local cache.

    Raises:
        UserError: the folder does not exist or is no whole model (``check_folder``), or the name is in neither the Hub nor the
            cache.
    """
    folder = local_folder(name)
    if folder is None:
        folder = _from_hub(name)
    check_folder(folder)
    return folder


def local_folder(name: str) -> Path | None:
    """The local folder that ``name`` refers to, or None for a Hub name.

    Raises:
        UserError: ``name`` can only be a folder, and it does not exist; it is a GGUF file.
    """
    if name in EMBEDDED:
        return Path(str(files("r0"))) / "assets" / name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if is_gguf(folder):
        refuse_gguf(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise UserError(f"model: there is no folder {name}; give a model folder, a Hub name such as Qwen/Qwen3-0.6B, or r0-tiny")
    return None


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    if "gguf" in name.lower():
        raise UserError(
            f"model: {name} is a repository of GGUF files; give the original model, or download one of the files and make a "
            "model folder of it with `r0 convert FILE.gguf FOLDER`"
        )
    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.metadata"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
        return folder if has_weights(folder) else Path(snapshot_download(name, allow_patterns=[*wanted, "pytorch_model*.bin"]))
    except Exception as error:  # the Hub's client raises many kinds: offline, unknown name, gated, disk full
        raise UserError(
            f"model: {name} is not a local folder and could not be downloaded from the Hugging Face Hub ({reason(error)}); "
            "give a model folder, or r0-tiny for the embedded model"
        ) from error
