"""The weight files of a model folder: which are read, whether they are whole, and which tensors they hold; no weight is read."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r0.errors import UserError, reason

# A file and the index of a sharded one, in the order in which transformers looks for them.
FORMATS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pth", "*.pt", "*.h5", "*.msgpack", "*.onnx")
READ = ("*.safetensors", "*.bin", "*.gguf", "*.json", "*.model", "*.txt", "*.jinja")  # by transformers, of a model folder
GGUF = b"GGUF"  # the first bytes of such a file
LFS = b"version https://git-lfs"
LFS_SIZE = 1024  # bytes; a pointer is smaller
AGAIN = "download the model again"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Type, in safetensors' names (``BF16``, ``F8_E4M3``, …), and shape."""

    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """The files that a model's weights are read from: of safetensors if there are any, else of torch's format.

    Raises:
        UserError: there are none; an index is damaged or names files that are not there.
    """
    for single, index in FORMATS:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _shards(folder / index)
    found = sorted({path.name for pattern in OTHER_WEIGHTS for path in folder.glob(pattern)})
    what = f", only {some(found)}" if found else ""
    raise UserError(f"model: {folder} contains neither model.safetensors nor its shards with their index{what}; {AGAIN}")


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights of a whole model, or claims to."""
    return any((folder / name).is_file() for both in FORMATS for name in both)


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF)) == GGUF
    except OSError:
        return False


def refuse_gguf(path: Path) -> None:
    """Refuse a GGUF file, or a folder whose only weights are GGUF files, as a model.

    Raises:
        UserError: with the command that makes a model folder of it.
    """
    names = sorted(file.name for file in path.glob("*.gguf")) if path.is_dir() else [path.name]
    if not names:
        return
    file = path / names[0] if path.is_dir() else path
    what = f"is a GGUF file{'' if len(names) == 1 else f', of which the folder has {len(names)}'}"
    raise UserError(f"model: {file} {what}; make a model folder of it with `r0 convert {file} FOLDER` and give that")


def check_pointers(folder: Path) -> None:
    """Refuse a folder in which git-LFS has left pointers in the place of files.

    Raises:
        UserError: with the file and the remedy.
    """
    for path in sorted(path for pattern in READ for path in folder.glob(pattern) if path.is_file()):
        _check_pointer(path)


def check_weight_files(folder: Path) -> None:
    """Refuse a folder whose files are not whole, as far as their sizes and headers tell.

    Raises:
        UserError: with the file and the remedy.
    """
    stored_tensors(folder)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors in a model's weight files, by name.

    Raises:
        UserError: a file is missing or damaged.
    """
    return dict(entry for path in weight_files(folder) for entry in _tensors(path))


def parameters(folder: Path) -> int:
    """Number of weights in a model's files; 0 for a folder without any.

    Raises:
        UserError: a file is missing or damaged.
    """
    if not has_weights(folder):
        return 0
    return sum(math.prod(tensor.shape) for tensor in stored_tensors(folder).values())


def read_tensor(folder: Path, name: str) -> Any:
    """A tensor of a model's weight files, on the CPU.

    Raises:
        KeyError: no file has it.
        UserError: a file is missing.
    """
    import torch
    from safetensors import safe_open

    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                if name in file.keys():  # noqa: SIM118
                    return file.get_tensor(name)
        elif name in (content := torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))):
            return content[name]
    raise KeyError(name)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"model: {index} is no index of shards ({reason(error)}); {AGAIN}") from None
    missing = [name for name in names if not (index.parent / str(name)).is_file()]
    if missing or not names:
        what = f"names {len(missing)} files that are not there ({some(missing)})" if missing else "names no files"
        raise UserError(f"model: {index} {what}; {AGAIN}")
    return [index.parent / str(name) for name in names]


def _check_pointer(path: Path) -> None:
    """Refuse what git-LFS leaves in a file's place."""
    try:
        if path.stat().st_size < LFS_SIZE and path.read_bytes().startswith(LFS):
            raise UserError(
                f"model: {path} is a git-LFS pointer, not the file itself; run `git lfs pull` in {path.parent}, or {AGAIN}"
            )
    except OSError as error:
        raise UserError(f"model: {path} cannot be read: {error.strerror or error}; make it readable, or {AGAIN}") from None


def _tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    return _of_safetensors(path) if path.suffix == ".safetensors" else _of_torch(path)


def _of_safetensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_slice(name)
                yield name, StoredTensor(str(tensor.get_dtype()), tuple(tensor.get_shape()))
    except (OSError, SafetensorError) as error:
        raise UserError(f"model: {path} is damaged or incomplete ({reason(error)}); {AGAIN}") from None


def _of_torch(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of a pickled file; without their data, where torch can leave it. A tensor under two names counts once."""
    import torch

    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    try:
        content: Any = torch.load(path, map_location="meta", weights_only=True)
        tensors = [(name, tensor) for name, tensor in content.items() if isinstance(tensor, torch.Tensor)]
    except Exception as error:  # torch's reader raises many kinds: truncated, no pickle, other classes than tensors
        raise UserError(f"model: {path} is damaged, incomplete or holds more than tensors ({reason(error)}); {AGAIN}") from None
    seen: set[int] = set()
    for name, tensor in tensors:
        storage = tensor.untyped_storage()._cdata
        if storage not in seen:
            seen.add(storage)
            yield name, StoredTensor(names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def some(names: Iterable[object], most: int = 3) -> str:
    """The first names, and how many more there are."""
    every = list(map(str, names))
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
