"""Checkpoints of a run: ``OUTPUT/checkpoints/step-00000100/``, whole or not there, and verified before they are used.

A checkpoint holds everything that the next step depends on: policy, critic, optimizers, schedules and random states (one file a
learner rank), the record up to its step, what is already sampled for the next step (``ahead/``), and ``state.json`` with the
step, which is also the data position and the weight version. ``manifest.json`` is written last and proves the rest. The ranks
write in the background: a folder that is not complete is called ``.partial-…``, one whose content has changed is renamed to
``damaged-…``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from r0.errors import UserError
from r0.records import Scored, ScoredGroup
from r0.runs.rollout_log import RolloutLog
from r0.storage.files import sync_folder, write_atomic
from r0.storage.manifest import MANIFEST, Entries, damage, keep_sound, write_manifest
from r0.storage.rollout_lines import read_rollouts

FORMAT = 2
STATE, RECORD, NAME = "state.json", "metrics.jsonl", "step-"
AHEAD = "ahead"  # a folder like the run's rollouts


class Savable(Protocol):
    """The learner methods that checkpoints use."""

    def save(self, directory: str) -> None:
        """All ranks copy their state and begin to write it into an existing directory."""

    def saved_files(self, wait: bool) -> Entries | None:
        """The files of the last ``save``; None while a rank still writes and ``wait`` is false."""

    def load(self, directory: str) -> str | None:
        """All ranks read their state from it."""


@dataclass(frozen=True)
class State:
    """``state.json``: updates done, and the metric that ``checkpoint.best`` names where it was measured at that step."""

    step: int
    metric: float | None = None
    best: str | None = None
    format: int = FORMAT


class Checkpoints:
    """The checkpoints of one run directory; at most one is being written.

    Args:
        run: run directory.
        keep: number of newest checkpoints to keep; the one with the highest metric is kept besides.
        say: prints a line for the user.
        best: the metric's name; values of another one, which a run had before it was resumed, do not count.
    """

    def __init__(self, run: Path, keep: int, say: Callable[[str], None] = print, best: str | None = None):
        self.directory = run / "checkpoints"
        self.record = run / RECORD
        self.keep = keep
        self._say = say
        self._best = best
        self._unfinished: State | None = None

    def save(self, learner: Savable, step: int, metric: float | None = None, ahead: Sequence[ScoredGroup] = ()) -> None:
        """Begin to write the state after ``step`` updates; training may go on once it is copied. ``publish`` completes it.

        The record must hold that step and be flushed. ``ahead`` are rollouts of the next step that are sampled already, with
        weights that will be gone.

        Raises:
            UserError: this checkpoint, or the one before, cannot be written; complete checkpoints are untouched.
        """
        self.publish(learner, wait=True)
        if self._folder(step).exists():
            return
        with self._writing(step) as partial:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            learner.save(str(partial))
            if self.record.is_file():
                shutil.copyfile(self.record, partial / RECORD)
            if ahead:
                (partial / AHEAD).mkdir()
                RolloutLog(partial / AHEAD).write(step + 1, ahead)
            state = State(step, metric, None if metric is None else self._best)
            (partial / STATE).write_text(json.dumps(asdict(state)) + "\n")
        self._unfinished = state

    def publish(self, learner: Savable, wait: bool = False) -> None:
        """Complete the checkpoint that is being written, if there is one and all ranks have written theirs (``wait``: wait for
        them), and delete those that need not be kept.

        Raises:
            UserError: it cannot be written; complete checkpoints are untouched.
        """
        state = self._unfinished
        if state is None:
            return
        with self._writing(state.step) as partial:
            files = learner.saved_files(wait)
            if files is None:
                return
            self._unfinished = None
            write_manifest(partial, files)
            os.rename(partial, self._folder(state.step))
            sync_folder(self.directory)
        self._delete_old()

    def restore(self, learner: Savable, other: Path | None = None) -> int:
        """Load the newest sound checkpoint into ``learner`` and return its step; 0 if there is none. Damaged ones that are newer
        are named and renamed. The record becomes the checkpoint's.

        Args:
            learner: all ranks.
            other: where this run has no checkpoint, the folder of another run or of one of its checkpoints to start from.

        Raises:
            UserError: there are checkpoints, but none is sound; it has another format, or does not fit the learner.
        """
        self._unfinished = None
        for partial in self.directory.glob(".partial-*"):
            shutil.rmtree(partial, ignore_errors=True)
        steps = self.steps()
        if steps:
            _refuse_other_format(self._folder(steps[-1]))
        sound = keep_sound([self._folder(step) for step in steps], self._say) or (other and sound_checkpoint(other))
        if not sound:
            return 0
        if note := learner.load(str(sound)):
            self._say(note)
        self._restore_record(sound)
        return int(sound.name.removeprefix(NAME))

    def ahead(self, step: int) -> Iterator[Scored]:
        """The rollouts in this run's checkpoint of ``step``, which the next step learns from."""
        for path in RolloutLog(self._folder(step) / AHEAD).files().values():
            yield from (logged.scored for logged in read_rollouts(path))

    def best(self) -> float | None:
        """The highest metric among the checkpoints; None if none has one."""
        found = [*self._metrics().values()]
        if self._unfinished is not None and self._unfinished.metric is not None:
            found.append(self._unfinished.metric)
        return max(found, default=None)

    def _metrics(self) -> dict[int, float]:
        """The metric of each complete checkpoint that has one."""
        states = [_read_state(self._folder(step)) for step in self.steps()]
        return {state.step: state.metric for state in states if state and state.metric is not None and state.best == self._best}

    def steps(self) -> list[int]:
        """The complete checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return _steps(self.directory)

    def _folder(self, step: int) -> Path:
        return self.directory / f"{NAME}{step:08d}"

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[Path]:
        """Gives the folder in which the checkpoint of ``step`` is written; after an error nothing is left of it."""
        partial = self.directory / f".partial-{step:08d}"
        try:
            yield partial
        except OSError as error:
            self._unfinished = None
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(
                f"{self._folder(step)}: the checkpoint cannot be written ({error}); earlier checkpoints are untouched. "
                "Make room, or make it writable, and run the same command again"
            ) from error

    def _delete_old(self) -> None:
        steps = self.steps()
        metrics = self._metrics()
        kept = {*steps[-self.keep :], *sorted(metrics, key=metrics.__getitem__)[-1:]}
        for step in steps:
            if step not in kept:
                shutil.rmtree(self._folder(step), ignore_errors=True)

    def _restore_record(self, folder: Path) -> None:
        """The record up to the checkpoint is the checkpoint's copy; what follows it is what the run wrote."""
        saved = (folder / RECORD).read_bytes() if (folder / RECORD).is_file() else b""
        found = self.record.read_bytes() if self.record.is_file() else b""
        if not found.startswith(saved):
            write_atomic(self.record, saved)
            self._say(f"{self.record} was damaged or missing; its lines are restored from {folder.name}")


def sound_checkpoint(folder: Path) -> Path:
    """A checkpoint that another run can start from: ``folder`` itself, or the newest sound one of the run in ``folder``.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if re.fullmatch(rf"{NAME}\d{{8,}}", folder.name):
        found = [folder]
    else:
        inside = folder / "checkpoints"
        found = [inside / f"{NAME}{step:08d}" for step in _steps(inside)] if inside.is_dir() else []
    for path in reversed(found):
        _refuse_other_format(path)
        if (reason := damage(path)) is None:
            return path
        if path == found[0]:
            raise UserError(f"checkpoint.resume: {path} is damaged: {reason}; name another checkpoint")
    raise UserError(f"checkpoint.resume: {folder} is neither a checkpoint nor a run that has one; use such a folder, or auto")


def _steps(directory: Path) -> list[int]:
    found = (re.fullmatch(rf"{NAME}(\d{{8,}})", path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in found if match)


def _refuse_other_format(folder: Path) -> None:
    """Format 1 had no manifest."""
    state = _read_state(folder)
    if state is not None and state.format != FORMAT and not (folder / MANIFEST).exists():
        raise UserError(f"{folder}: has format {state.format}, but this r0 reads {FORMAT}; start over with fresh=true")


def _read_state(folder: Path) -> State | None:
    try:
        content = json.loads((folder / STATE).read_text(encoding="utf-8"))
        metric = content.get("metric")
        metric = None if metric is None or not math.isfinite(metric) else float(metric)
        return State(int(content["step"]), metric, content.get("best"), int(content["format"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
