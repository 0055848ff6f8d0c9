"""A run as the report reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from r0.errors import UserError
from r0.runs.claim import CONFIG, FINISHED, Marker, read_marker
from r0.runs.record import read_record
from r0.runs.resolved import Value, read_values

Line = Mapping[str, float | None]


@dataclass(frozen=True)
class Run:
    """A run directory, or the file of a TREC run. Whatever is missing in it is empty: a run in progress has a page too."""

    path: Path
    name: str  # short, and different from the other runs' of the page
    marker: Marker

    @cached_property
    def config(self) -> dict[str, Value]:
        """The resolved configuration, flat."""
        return read_values(self.path / CONFIG) if (self.path / CONFIG).is_file() else {}

    @cached_property
    def steps(self) -> list[Line]:
        """The lines of training steps."""
        return [line for line in self._record if not any(name.startswith("heldout/") for name in line)]

    @cached_property
    def evaluations(self) -> list[Line]:
        """The held-out evaluations."""
        return [line for line in self._record if any(name.startswith("heldout/") for name in line)]

    @cached_property
    def timings(self) -> Sequence[Line]:
        """Seconds, tokens per second and memory of each step."""
        return read_record(self.path / "timings.jsonl")

    @cached_property
    def _record(self) -> Sequence[Line]:
        return read_record(self.path / "metrics.jsonl")

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.path / FINISHED).is_file()

    def json(self, name: str) -> Any:
        """The content of one of the run's files; None if it is missing.

        Raises:
            UserError: it is damaged.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path / name}: is damaged ({error}); delete it, or run the run's command again") from None


def open_runs(paths: Sequence[str]) -> list[Run]:
    """The runs in these folders, and TREC runs in files, each once.

    Raises:
        UserError: a folder is missing or no run of r0, or there is a single TREC run.
    """
    folders = list(dict.fromkeys(Path(path).expanduser().resolve() for path in paths))
    found = []
    for folder, name in zip(folders, names(folders), strict=True):
        if folder.is_file():
            found.append(Run(folder, name, Marker("eval", run_id="", created="")))
            continue
        if not folder.is_dir():
            raise UserError(f"runs: there is no folder {folder}; give a run directory, such as runs/demo-…")
        marker = read_marker(folder)
        if marker is None:
            raise UserError(f"runs: {folder} is not a run of r0 (it has no run.json); give the folder that a command wrote")
        found.append(Run(folder, name, marker))
    if [run.path.is_file() for run in found].count(True) == 1:
        raise UserError("runs: a TREC run is compared with another one; give two, the first stage first, or a run directory")
    return found


def names(folders: Sequence[Path]) -> list[str]:
    """Each folder by the shortest end of its path that no other has."""
    found = []
    for folder in folders:
        parts = 1
        while parts < len(folder.parts) and sum(other.parts[-parts:] == folder.parts[-parts:] for other in folders) > 1:
            parts += 1
        found.append(os.sep.join(folder.parts[-parts:]))
    return found
