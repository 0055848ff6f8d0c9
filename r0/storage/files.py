"""Atomic file writes: content goes to a temporary file in the same folder, is flushed to disk, and the file is renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from r0.errors import UserError

TEMPORARY = ".tmp-"  # name prefix of files being written


def write_atomic(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write ``content``, given whole or in parts, to ``path``. After a crash at any time, ``path`` holds either the old or the
    new content, complete.

    Raises:
        UserError: the file system refuses (read-only, full, no permission).
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with writing(path):
        try:
            with temporary.open("wb") as stream:
                stream.writelines([content] if isinstance(content, bytes) else content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON for people: indented, whole or not at all.

    Raises:
        UserError: the file system refuses.
    """
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def json_line(content: Any) -> bytes:
    """``content`` as a line of JSONL."""
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a folder to write in that becomes ``folder`` at the end of the block; after an error nothing is left of it.

    Raises:
        UserError: the file system refuses.
    """
    partial = folder.with_name(f".partial-{folder.name}")
    try:
        with writing(folder):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        yield partial
        with writing(folder):
            open_to_others(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_to_others(folder: Path) -> None:
    """Give the files of a folder the permissions that this user's new files have, as the folder has them: safetensors makes files
    that only their owner can read, whatever the umask is."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def refuse_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """Keep what is read from being replaced by what is written.

    Raises:
        UserError: ``output`` is one of the files that are read.
    """
    if output.exists() and any(one.exists() and output.samefile(one) for one in inputs):
        raise UserError(f"{output}: is also the input; name another output file")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, which makes a rename durable. Does nothing on file systems without support."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Context manager that converts file-system errors into a ``UserError``."""
    try:
        yield
    except FileExistsError:
        raise UserError(f"output: {path} is a file, not a folder; choose another output=") from None
    except NotADirectoryError:
        raise UserError(f"output: a part of {path} is a file, not a folder; choose another output=") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"output: cannot write {path}: {reason}; make it writable or choose another output=") from None
