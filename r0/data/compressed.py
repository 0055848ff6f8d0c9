"""Opens files by their first bytes: gzip, zstd, bzip2 and xz are decompressed, any other binary format is refused by its name.

A file's name does not matter, since browsers and tools that decompress on the way leave the old name.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from r0.errors import UserError, reason

PARQUET = b"PAR1"
SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
_HEAD = 300  # bytes; tar's magic number is at byte 257
_BINARY = {
    PARQUET: "a parquet file",
    b"PK\x03\x04": "a zip archive (xlsx, docx and .npz files are such archives, too)",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Office file (xls, doc)",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x04\x22\x4d\x18": "an LZ4 file",
    b"\x7fELF": "a program",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    **{b"\x80" + bytes([protocol]): "a Python pickle (or a file of torch.save)" for protocol in range(2, 6)},
}
_TEXTS = (b"version https://git-lfs", b"<!DOCTYPE", b"<!doctype", b"<html", b"%PDF")
_REMEDIES = {
    "UTF-16 text": "convert it to UTF-8",
    "a Git LFS pointer, not the file itself": "fetch the file with `git lfs pull`",
    "a web page": "download the file itself",
}


def _zstd(path: Path) -> io.BufferedReader:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), 1 << 18)


_PACKED: dict[bytes, tuple[str, Callable[[Path], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.GzipFile),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    **{b"BZh%d1AY&SY" % level: ("bzip2", bz2.BZ2File) for level in range(1, 10)},
    b"\xfd7zXZ": ("xz", lzma.LZMAFile),
}


def head_of(path: Path) -> bytes:
    """The first bytes of a file, decompressed.

    Raises:
        UserError: the file cannot be read or decompressed.
    """
    with opened(path, binary=True) as file:
        return file.read(_HEAD)


def compression_of(path: Path) -> str:
    """``gzip``, ``zstd``, ``bzip2`` or ``xz``; empty if the file is not compressed.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    return next((name for magic, (name, _) in _PACKED.items() if head.startswith(magic)), "")


@contextmanager
def opened(path: Path, binary: bool = False) -> Iterator[BinaryIO]:
    """The decompressed content of a text file.

    Args:
        path: the file.
        binary: accept binary formats, too.

    Raises:
        UserError: the file cannot be read, is damaged or truncated, or holds a binary format where text is read.
    """
    name = compression_of(path)
    unpack = next((unpack for known, unpack in _PACKED.values() if known == name), None)
    try:
        with path.open("rb") if unpack is None else unpack(path) as file:
            buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
            if not binary:
                _refuse_binary(path, buffered.peek(_HEAD))
            yield buffered
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if not name:
            raise
        raise UserError(
            f"{path}: cannot be decompressed as {name} ({reason(error).rstrip('.')}); download the file again, or decompress it "
            "yourself"
        ) from None


def binary_format(head: bytes) -> str | None:
    """The name of the binary format that starts with ``head``; None for text.

    A magic number of plain letters counts only before a control character, since the first id of a file may be ``PAR1``.
    """
    has_control = any(byte < 9 or 13 < byte < 32 for byte in head)
    if head[257:262] == b"ustar":
        return "a tar archive"
    found = next((magic for magic in _BINARY if head.startswith(magic)), None)
    if found is None or (found.isascii() and found not in _TEXTS and not has_control):
        return None
    return _BINARY[found]


def _refuse_binary(path: Path, head: bytes) -> None:
    found = binary_format(head)
    if found is not None:
        raise UserError(f"{path}: is {found}, and text is read here; {_REMEDIES.get(found, 'give a text file')}")
