"""What was wrong with a batch that the learner could not use, and which of its samples it comes from.

Dimensions: T completion tokens of the rank's share, C tokens of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from r0.actors.learner.batch import Batch, Slice
from r0.actors.learner.gradients import LIMIT


@dataclass(frozen=True, slots=True)
class BatchFault:
    """Why an update was not made, and the (group, sample) it comes from: those whose own values are not finite, or all of their
    row. None on a rank whose rows are all finite."""

    reason: str = ""
    samples: tuple[tuple[int, int], ...] = ()

    def __or__(self, other: BatchFault) -> BatchFault:
        """Both together: the first reason, and the samples of both."""
        return BatchFault(self.reason or other.reason, tuple(sorted({*self.samples, *other.samples})))


@dataclass(frozen=True, slots=True)
class Pass:
    """A row after forward and backward pass: its loss, the network's outputs for its tokens, the sum of its gradients' norms."""

    part: Slice
    loss: torch.Tensor
    out_C: torch.Tensor
    gradients: torch.Tensor

    def wrong(self) -> torch.Tensor:
        """The tokens whose outputs are not finite, as positions on the T axis; all tokens if there are none."""
        bad_C = ~self.out_C.isfinite()
        return self.part.at_C[bad_C] if bool(bad_C.any()) else self.part.at_C


def in_tokens(reason: str, batch: Batch, at: torch.Tensor) -> BatchFault:
    """The fault of the completions of some tokens, given as positions on the T axis."""
    addresses = list(batch.first)
    return BatchFault(reason, tuple(addresses[n] for n in batch.seq_T[at].unique().tolist()))


def in_rows(reason: str, batch: Batch, passes: Sequence[Pass]) -> BatchFault:
    """The fault of an update over some rows: the rows whose loss is not finite, or else the first row with a gradient that is
    not finite."""
    bad = [row for row in passes if not bool(row.loss.isfinite())] or [row for row in passes if not bool(row.gradients <= LIMIT)][
        :1
    ]
    wrong = [row.wrong() for row in bad if row.part.completions]
    return in_tokens(reason, batch, torch.cat(wrong)) if wrong else BatchFault(reason)
