"""``manifest.json``: size and hash of every file of a folder. A folder with a manifest that holds is as it was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from r0.errors import UserError
from r0.storage.files import sync_folder

MANIFEST = "manifest.json"

Entry = tuple[int, str]  # bytes, SHA-256 in hexadecimal
Entries = Mapping[str, Entry]  # by path relative to the folder


def entry(path: Path) -> Entry:
    """Flush a file to disk and describe it."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.tell(), digest


def write_manifest(folder: Path, known: Entries | None = None) -> None:
    """Flush the files of ``folder`` to disk and write its manifest, the last of them.

    ``known`` holds files that were described (and flushed) by whoever wrote them.

    Raises:
        OSError: the file system refuses.
    """
    known = known or {}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    files = {name: known[name] if name in known else entry(path) for name, path in names.items()}
    content = {"files": {name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()}}
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    for directory in {path.parent for path in paths} | {folder}:
        sync_folder(directory)


def damage(folder: Path) -> str | None:
    """What is wrong with ``folder``, in a few words that name the file; None if every file is as it was written.

    Files that the manifest does not list are not looked at.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        listed = {str(name): (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    if not listed:
        return f"{MANIFEST} lists no file"
    return next((reason for name in listed if (reason := _file_damage(folder / name, name, *listed[name]))), None)


def keep_sound(folders: Sequence[Path], say: Callable[[str], None]) -> Path | None:
    """The newest of ``folders`` (oldest first) that is as it was written; None if there are no folders.

    Newer ones are renamed to ``damaged-…``, and ``say`` is told the file and what is wrong with it.

    Raises:
        UserError: there are folders, but every one is damaged; none is renamed.
    """
    damaged: list[tuple[Path, str]] = []
    for folder in reversed(folders):
        reason = damage(folder)
        if reason is None:
            for other, why in damaged:
                say(f"{other} is damaged: {why}; it is renamed to {_set_aside(other).name}, and {folder.name} is used")
            return folder
        damaged.append((folder, reason))
    if damaged:
        listed = "; ".join(f"{folder.name}: {reason}" for folder, reason in damaged)
        raise UserError(f"{folders[0].parent}: no checkpoint is sound ({listed}); start over with fresh=true or another output=")
    return None


def _set_aside(folder: Path) -> Path:
    names = (f"damaged-{folder.name}{more}" for more in ("", *(f"-{number}" for number in range(2, 1000))))
    return folder.rename(next(path for name in names if not (path := folder.with_name(name)).exists()))


def _file_damage(path: Path, name: str, size: int, digest: str) -> str | None:
    try:
        found = path.stat().st_size
        if found != size:
            return f"{name} has {found} bytes, but {size} according to {MANIFEST}"
        with path.open("rb") as stream:
            found_digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        return f"{name} cannot be read ({error})"
    return None if found_digest == digest else f"the content of {name} is not what {MANIFEST} says (its SHA-256 is another)"
