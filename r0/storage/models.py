"""Locates a model's files (the embedded r0-tiny, a folder, or a name on the Hugging Face Hub), and determines its size."""

from __future__ import annotations

import json
import re
import struct
from importlib.resources import files
from pathlib import Path

from r0.errors import UserError, reason

EMBEDDED = ("r0-tiny",)


def model_folder(name: str) -> Path:
    """The folder with the model's configuration, weights and tokenizer; a Hub name is downloaded, or found in the local cache.

    Raises:
        UserError: the folder does not exist or holds no model, or the name is in neither the Hub nor the cache.
    """
    folder = local_folder(name)
    if folder is None:
        folder = _from_hub(name)
    if not (folder / "config.json").is_file():
        raise UserError(f"model: {folder} contains no config.json, so it is not a Hugging Face model folder; give another")
    return folder


def local_folder(name: str) -> Path | None:
    """The local folder that ``name`` refers to, or None for a Hub name.

    Raises:
        UserError: ``name`` can only be a folder, and it does not exist.
    """
    if name in EMBEDDED:
        return Path(str(files("r0"))) / "assets" / name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise UserError(f"model: there is no folder {name}; give a model folder, a Hub name such as Qwen/Qwen3-0.6B, or r0-tiny")
    return None


def weight_bytes(folder: Path) -> int:
    """The size of the weights in the folder's safetensors files in bytes, read from their headers (0 if there are none)."""
    return sum(end - begin for path in folder.glob("*.safetensors") for begin, end in _offsets(path))


def parameters(folder: Path) -> int:
    """Number of parameters, computed as stored bytes / element size."""
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
    count = 0
    for path in folder.glob("*.safetensors"):
        for entry in _header(path).values():
            begin, end = entry["data_offsets"]
            count += (end - begin) // sizes.get(entry["dtype"], 1)
    return count


def _offsets(path: Path) -> list[tuple[int, int]]:
    return [tuple(entry["data_offsets"]) for entry in _header(path).values()]


def _header(path: Path) -> dict[str, dict]:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    except (OSError, struct.error, ValueError) as error:
        raise UserError(f"model: {path} is not a readable safetensors file: {error}") from None
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.metadata"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the Hub's client raises many kinds: offline, unknown name, gated, disk full
        raise UserError(
            f"model: {name} is not a local folder and could not be downloaded from the Hugging Face Hub ({reason(error)}); "
            "give a model folder, or r0-tiny for the embedded model"
        ) from error
