"""Checkpoints: ``OUTPUT/checkpoints/step-00000100/``, written to a temporary folder and renamed; the newest k are kept.

A checkpoint holds everything the next step depends on: policy, critic, optimizers, schedules and random states (one file per
learner rank), and ``state.json`` with the step, which is also the data position and the weight version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Protocol

from r0.errors import UserError

FORMAT = 1


class Savable(Protocol):
    """The learner methods that checkpoints use."""

    def save(self, directory: str) -> None:
        """All ranks write their state into an existing directory."""

    def load(self, directory: str) -> None:
        """All ranks read their state from it."""


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
        run: run directory.
        keep: number of newest checkpoints to keep.
    """

    def __init__(self, run: Path, keep: int):
        self.directory = run / "checkpoints"
        self.keep = keep

    def save(self, learner: Savable, step: int) -> Path:
        """Atomically write the state after ``step`` updates.

        Raises:
            UserError: the checkpoint cannot be written; earlier checkpoints are untouched.
        """
        final = self.directory / f"step-{step:08d}"
        if final.exists():
            return final
        partial = self.directory / f".partial-{step:08d}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            learner.save(str(partial))
            (partial / "state.json").write_text(json.dumps({"format": FORMAT, "step": step}) + "\n")
            _sync_to_disk(partial)
            os.rename(partial, final)
        except OSError as error:
            raise UserError(f"{final}: the checkpoint cannot be written ({error}); earlier checkpoints are untouched") from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.directory / f"step-{old:08d}", ignore_errors=True)
        return final

    def restore(self, learner: Savable) -> int:
        """Load the newest checkpoint into ``learner`` and return its step; 0 if there is none.

        Raises:
            UserError: the newest checkpoint has another format or cannot be read.
        """
        steps = self.steps()
        if not steps:
            return 0
        newest = self.directory / f"step-{steps[-1]:08d}"
        try:
            state = json.loads((newest / "state.json").read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{newest}: cannot be read ({error}); delete this folder to resume from the previous one") from None
        if state.get("format") != FORMAT:
            raise UserError(f"{newest}: has format {state.get('format')}, but this r0 reads {FORMAT}; start over with fresh=true")
        learner.load(str(newest))
        return steps[-1]

    def steps(self) -> list[int]:
        """The complete checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        found = (re.fullmatch(r"step-(\d{8})", path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in found if match)


def _sync_to_disk(directory: Path) -> None:
    """Flush every file, then the directory, so that the rename cannot become durable before the contents."""
    for path in [*(p for p in directory.rglob("*") if p.is_file()), directory]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
