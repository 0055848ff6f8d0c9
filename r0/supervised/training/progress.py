"""What a rank has added up so far: the losses since the last line of the record, and counts of the rows that it has trained on.

It is kept beside each checkpoint in a file of its rank, so that a resumed run records what an uninterrupted one does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Progress:
    """The sums of a rank after a step; ``loss`` is not copied from the device before it is saved."""

    loss: torch.Tensor
    logged: int  # step of the last line of the record
    counts: Mapping[str, int]

    @classmethod
    def of(cls, trainer: Any) -> Progress:
        """That of a Trainer between two steps."""
        return cls(trainer._tr_loss.clone(), trainer._globalstep_last_logged, trainer.counts)

    def give(self, trainer: Any) -> None:
        """Make a Trainer go on from here."""
        trainer._tr_loss.copy_(self.loss)
        trainer._globalstep_last_logged, trainer.counts = self.logged, self.counts

    def save(self, checkpoint: Path) -> None:
        """Write the file of this rank."""
        content = {"loss": self.loss.item(), "logged": self.logged, "counts": dict(self.counts)}
        _file(checkpoint).write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> Progress | None:
        """What this rank has saved; None if the checkpoint has no such file, as those of earlier versions."""
        if not _file(checkpoint).is_file():
            return None
        content = json.loads(_file(checkpoint).read_text(encoding="utf-8"))
        return cls(torch.tensor(content["loss"]), content["logged"], content["counts"])


def _file(checkpoint: Path) -> Path:
    return checkpoint / f"progress-{dist.get_rank()}.json"
