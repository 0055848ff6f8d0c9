"""The folder where named data sets are kept as files that r0 reads, in r0's cache. It may be deleted when no run uses it.

An entry is a folder: a BEIR folder, or ``rows.jsonl``; with ``source.json``, which says what it was made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r0.errors import UserError
from r0.process.folders import is_abandoned, process_name, user_cache
from r0.storage.files import sync_folder, write_json

SOURCE, ROWS = "source.json", "rows.jsonl"
_PARTIAL = ".partial-"  # starts the names of entries that are being made
FORMAT = 1  # of the entries; those of another number are not used
Facts = dict[str, Any]


def root() -> Path:
    """The folder of all entries."""
    return user_cache().absolute() / "r0" / "data"


def kept(name: str, made_of: Facts, build: Callable[[Path], Facts]) -> tuple[Path, Facts]:
    """The entry of a data set and its facts; it is made if it is not there, whole or not at all.

    Args:
        name: how the data set can be named again, such as ``hf:BeIR/scifact@<commit>``.
        made_of: all that its content depends on; part of the entry's name.
        build: writes the content into an empty folder and returns facts about it.

    Raises:
        UserError: of ``build``; or the cache cannot be written.
    """
    key = hashlib.sha256(json.dumps([FORMAT, made_of], sort_keys=True).encode()).hexdigest()[:12]
    entry = root() / f"{_slug(name)}-{key}"
    if (facts := _facts(entry)) is not None:
        return entry, facts
    try:
        root().mkdir(parents=True, exist_ok=True)
        for left in root().glob(f"{_PARTIAL}*"):
            if is_abandoned(left.name):
                shutil.rmtree(left, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{process_name()}-", dir=root()))
    except OSError as error:
        raise UserError(f"{root()}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder") from None
    print(f"r0: {name}: being read into {root()}", file=sys.stderr)
    try:
        facts = {"name": name, "made_of": made_of, **build(partial)}
        write_json(partial / SOURCE, facts)
        try:
            partial.rename(entry)
        except OSError:
            if _facts(entry) is None:  # else another process has just made it
                raise
        sync_folder(root())
    except OSError as error:
        if error.strerror is None:  # of the network: whoever builds says what failed
            raise
        raise UserError(
            f"{entry}: cannot be written ({error.strerror}); make room there, or set XDG_CACHE_HOME to another folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return entry, facts


def find(name: str) -> Path | None:
    """The newest entry of a name that has been kept, if there is one."""
    entries = (path for path in root().glob(f"{_slug(name)}-*") if (_facts(path) or {}).get("name") == name)
    return max(entries, key=lambda path: path.stat().st_mtime, default=None)


def kept_already(entry: Path) -> tuple[Path, Facts]:
    """An entry that was found, with its facts."""
    return entry, _facts(entry) or {}


def name_of(path: str) -> str:
    """The name of the data set that a path in the cache was made from; any other path as it is."""
    if not path.startswith(str(root()) + os.sep):
        return path
    entry = root() / Path(path).relative_to(root()).parts[0]
    return str((_facts(entry) or {}).get("name", path))


def _facts(entry: Path) -> Facts | None:
    try:
        found = json.loads((entry / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _slug(name: str) -> str:
    """A name as the name of a folder, with a commit shortened."""
    return re.sub(r"[^\w.@-]+", "--", re.sub(r"(@[0-9a-f]{12})[0-9a-f]{28}$", r"\1", name))[-120:]
