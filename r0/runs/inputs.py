"""The files that a run reads, in ``inputs.json``: what was in them when it began, so that a resumed run reads the same.

By key, the list of its files with size, times and a hash of the content. A file is hashed when the run begins, and again only if
its size or its times have changed since. Where a file lies does not count. Of a model's folder these are its configuration and
its weights, of which parts are hashed: training changes all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from r0.config.describe import keys
from r0.config.types import names_files
from r0.data.beir import find_qrels
from r0.data.table import folder_file
from r0.errors import UserError
from r0.runs.resolved import NAMES_OF_R0, flat
from r0.storage.files import write_json

INPUTS = "inputs.json"
FOLDER = ("corpus", "queries")  # what is read of a BEIR folder, besides judgements
WEIGHTS = (".safetensors", ".bin")
PARTS, PART = 1024, 4096  # of a file of weights, in bytes


@dataclass(frozen=True)
class Input:
    """A file as it was read."""

    path: str
    size: int
    times: tuple[int, int]  # of the last change of content and of the file, ns
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Input:
        """The file at ``path``, hashed.

        Raises:
            UserError: it cannot be read.
        """
        try:
            real, found = os.path.realpath(path), path.stat()
            times = found.st_mtime_ns, found.st_ctime_ns
            return cls(os.path.abspath(path), found.st_size, times, _digest(real, found.st_size, times))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None

    def is_in(self, path: Path) -> bool:
        """Whether the file at ``path`` has this content."""
        try:
            found = path.stat()
        except OSError:
            return False
        untouched = os.path.realpath(path) == os.path.realpath(self.path) and self.times == (found.st_mtime_ns, found.st_ctime_ns)
        return found.st_size == self.size and (untouched or Input.of(path).sha256 == self.sha256)


def write(run: Path, config: BaseModel, anew: bool) -> None:
    """Keep what a run reads; unless ``anew``, only where it is not kept yet.

    Raises:
        UserError: a file cannot be read, or the run's directory not be written.
    """
    if anew:
        (run / INPUTS).unlink(missing_ok=True)
    if not (run / INPUTS).is_file() and (files := _files(config)):
        content = {name: [asdict(Input.of(path)) for path in paths] for name, paths in files.items()}
        write_json(run / INPUTS, content)


def compared(run: Path, config: BaseModel) -> tuple[set[str], str]:
    """The keys whose files have the content that the run began with, and what has changed, as the beginning of a sentence.

    Files that are gone are not compared: whoever reads them says so.
    """
    known, same, changed = _read(run), set(), ""
    for name, paths in _files(config).items():
        if name not in known or not paths:
            continue
        other = next((path for path, one in zip(paths, known[name], strict=False) if not one.is_in(path)), None)
        if other is None and len(paths) == len(known[name]):
            same.add(name)
        elif not changed:
            changed = f"{name}: {other or paths[-1]} is not what this run read when it began"
    return same, changed


def _files(config: BaseModel) -> dict[str, list[Path]]:
    """The files of each key whose content is part of the run; keys that name none are left out."""
    values = flat(config)
    found: dict[str, list[Path]] = {}
    for name, field in keys(type(config)):
        marked, value = names_files(field), values.get(name)
        if marked is not None and marked.content:
            named = [value] if isinstance(value, str) else value if isinstance(value, list) else []
            judged = Path(str(values.get("data"))) if name == "qrels" else None
            found[name] = [path for text in named for path in (_of_model(text) if marked.weights else _named(text, judged))]
    return {name: paths for name, paths in found.items() if paths}


def _named(text: str, judged: Path | None) -> list[Path]:
    """The files that exist under a name: one, those of all epochs, of a BEIR folder, or judgements of the folder ``judged``."""
    path = Path(text)
    if text in NAMES_OF_R0:
        return []
    if "{}" in text:
        return list(itertools.takewhile(Path.is_file, (Path(text.replace("{}", str(number))) for number in itertools.count(1))))
    if judged is not None and judged.is_dir():
        with contextlib.suppress(UserError):  # whoever reads them says what is missing
            path = find_qrels(text, judged)
    elif path.is_dir():
        return [file for name in FOLDER if (file := folder_file(path, name)).is_file()]
    return [path] if path.is_file() else []


def _of_model(text: str) -> list[Path]:
    """Configuration and weights of a model's folder; none of a name on the Hub."""
    folder = Path(text)
    if text in NAMES_OF_R0 or not (folder / "config.json").is_file():
        return []
    return [folder / "config.json", *sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS and path.is_file())]


@cache
def _digest(path: str, size: int, _times: tuple[int, int]) -> str:
    with open(path, "rb") as file:
        if not path.endswith(WEIGHTS) or size <= PARTS * PART:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256()
        for number in range(PARTS):
            file.seek(number * (size - PART) // (PARTS - 1))
            found.update(file.read(PART))
        return found.hexdigest()


def _read(run: Path) -> dict[str, list[Input]]:
    """What ``write`` kept; nothing for a run without files, or of an earlier version."""
    try:
        content = json.loads((run / INPUTS).read_text(encoding="utf-8"))
        return {
            name: [Input(one["path"], one["size"], tuple(one["times"]), one["sha256"]) for one in files]
            for name, files in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
