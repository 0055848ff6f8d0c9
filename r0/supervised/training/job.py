"""Data shared by the driver of a supervised run and its ranks: the job, its checkpoints, and the reports of rank 0."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from r0.config import PlainRankKeys, RankKeys
from r0.errors import UserError
from r0.storage.manifest import MANIFEST, keep_sound

Config = TypeVar("Config", bound=RankKeys, covariant=True)


class Kind(StrEnum):
    """The kind of a report."""

    STEP = "step"
    EVALUATION = "evaluation"
    SAY = "say"
    DONE = "done"  # the final model is written; values are the metrics of the run


@dataclass(frozen=True)
class Report:
    """A message from rank 0 to the driver."""

    kind: Kind
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    text: str = ""


class Channel(Protocol):
    """Communication between a rank and the driver."""

    def send(self, report: Report) -> None:
        """Send a report to the driver (rank 0 only)."""

    def stop_asked(self) -> bool:
        """Whether the driver wants the run to stop and save."""


@dataclass(frozen=True)
class Job(Generic[Config]):
    """A training run. ``model`` and ``run`` are folders that every rank can read and write; ``rank`` is the function that each
    rank runs with (job, channel), as ``module:function``."""

    config: Config
    model: str
    run: str
    steps: int
    steps_per_epoch: int
    rank: str

    @property
    def checkpoints(self) -> Path:
        """The folder where transformers' Trainer writes ``checkpoint-<step>``, each with a manifest once all ranks are done."""
        return Path(self.run) / "checkpoints"

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        return self.config.save_every or self.steps_per_epoch

    @property
    def log_every(self) -> int:
        """Steps between lines of the record."""
        return self.config.log_every if isinstance(self.config, PlainRankKeys) else 1

    def newest(self) -> tuple[Path | None, int]:
        """The newest complete checkpoint, and its step; (None, 0) if there is none."""
        found = self._found()
        return found[-1] if found else (None, 0)

    def clear(self, say: Callable[[str], None]) -> None:
        """Delete incomplete checkpoints of an interrupted run and the files of the channel, and rename damaged checkpoints that
        are newer than the newest sound one; ``say`` prints their names.

        Raises:
            UserError: there are checkpoints, but none is sound.
        """
        for path in self.checkpoints.glob("checkpoint-*"):
            if not (path / MANIFEST).is_file():
                shutil.rmtree(path, ignore_errors=True)
        keep_sound([path for path, _ in self._found()], say)
        for path in (self._reports, self._stop):
            path.unlink(missing_ok=True)

    def _found(self) -> list[tuple[Path, int]]:
        """Complete checkpoints and their steps, oldest first."""
        named = ((path, re.fullmatch(r"checkpoint-(\d+)", path.name)) for path in self.checkpoints.glob("checkpoint-*"))
        found = [(path, int(match[1])) for path, match in named if match and (path / MANIFEST).is_file()]
        return sorted(found, key=lambda one: one[1])

    @property
    def _reports(self) -> Path:
        return Path(self.run) / "logs" / "reports.jsonl"

    @property
    def _stop(self) -> Path:
        return Path(self.run) / "logs" / "stop"


class FileChannel:
    """Reports and stop requests as files in the run directory, because ranks and driver may be on different nodes."""

    def __init__(self, job: Job):
        self._reports, self._stop = job._reports, job._stop
        self._offset = 0

    def send(self, report: Report) -> None:
        """See ``Channel``."""
        with self._reports.open("ab") as stream:
            stream.write(json.dumps(asdict(report)).encode() + b"\n")

    def stop_asked(self) -> bool:
        """See ``Channel``."""
        return self._stop.exists()

    def ask_to_stop(self) -> None:
        """Ask the ranks to save and stop."""
        self._stop.touch()

    def receive(self) -> list[Report]:
        """The reports since the last call."""
        if not self._reports.exists():
            return []
        with self._reports.open("rb") as stream:
            stream.seek(self._offset)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        return [Report(**{**line, "kind": Kind(line["kind"])}) for line in lines]


def micro_batch(config: RankKeys) -> int:
    """Rows per micro-batch of a rank: the largest divisor of its share of a batch up to ``micro_batch_size``.

    Raises:
        UserError: a batch cannot be divided evenly among the ranks.
    """
    share, remainder = divmod(config.batch_size, config.ranks)
    if remainder:
        near = max(1, round(config.batch_size / config.ranks)) * config.ranks
        raise UserError(f"batch_size: {config.batch_size} rows cannot be shared by ranks={config.ranks}; use batch_size={near}")
    return next(size for size in range(min(share, config.micro_batch_size), 0, -1) if share % size == 0)
