"""What the driver of a training without RL and its ranks agree on: the job, its checkpoints, and what rank 0 reports."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from r0.config import RankKeys
from r0.errors import UserError

Config = TypeVar("Config", bound=RankKeys, covariant=True)

COMPLETE = "whole"  # file that a checkpoint holds once all ranks have written theirs


class Kind(StrEnum):
    """What a report is about."""

    STEP = "step"
    EVALUATION = "evaluation"
    SAY = "say"
    DONE = "done"  # the final model is there; values are the figures of the run


@dataclass(frozen=True)
class Report:
    """A line from rank 0 to the driver."""

    kind: Kind
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    text: str = ""


class Channel(Protocol):
    """The way from a rank to the driver and back."""

    def send(self, report: Report) -> None:
        """Tell the driver (rank 0 only)."""

    def stop_asked(self) -> bool:
        """Whether the driver wants the run to stop and save."""


@dataclass(frozen=True)
class Job(Generic[Config]):
    """A training. ``model`` and ``run`` are folders that every rank can read and write; ``rank`` is what each rank runs, as
    ``module:function`` of (job, channel)."""

    config: Config
    model: str
    run: str
    steps: int
    steps_per_epoch: int
    rank: str

    @property
    def checkpoints(self) -> Path:
        """Where transformers' Trainer keeps ``checkpoint-<step>``."""
        return Path(self.run) / "checkpoints"

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        return self.config.save_every or self.steps_per_epoch

    def newest(self) -> tuple[Path | None, int]:
        """The newest checkpoint that all ranks finished, and its step (none: 0)."""
        found = [(int(path.name.partition("-")[2]), path) for path in self.checkpoints.glob("checkpoint-*") if _complete(path)]
        step, newest = max(found, default=(0, None))
        return newest, step

    def clear(self) -> None:
        """Delete what an interrupted run left half-written, and what is between driver and ranks."""
        for path in self.checkpoints.glob("checkpoint-*"):
            if not _complete(path):
                shutil.rmtree(path, ignore_errors=True)
        for path in (self._reports, self._stop):
            path.unlink(missing_ok=True)

    @property
    def _reports(self) -> Path:
        return Path(self.run) / "logs" / "reports.jsonl"

    @property
    def _stop(self) -> Path:
        return Path(self.run) / "logs" / "stop"


class FileChannel:
    """Reports and the wish to stop, as files in the run directory: ranks and driver may be on different nodes."""

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
        """Tell the ranks to stop and save."""
        self._stop.touch()

    def receive(self) -> list[Report]:
        """What came since the last call."""
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
    """Rows that a rank computes at one time: the largest divisor of its share of a batch up to ``micro_batch_size``.

    Raises:
        UserError: the ranks cannot share a batch evenly.
    """
    share, rest = divmod(config.batch_size, config.ranks)
    if rest:
        near = max(1, round(config.batch_size / config.ranks)) * config.ranks
        raise UserError(f"batch_size: {config.batch_size} rows cannot be shared by ranks={config.ranks}; use batch_size={near}")
    return next(size for size in range(min(share, config.micro_batch_size), 0, -1) if share % size == 0)


def _complete(checkpoint: Path) -> bool:
    return re.fullmatch(r"checkpoint-\d+", checkpoint.name) is not None and (checkpoint / COMPLETE).is_file()
