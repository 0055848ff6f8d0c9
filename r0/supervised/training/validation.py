"""Held-out figures while a training runs. Every rank takes its share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from r0.config import PlainRankKeys
from r0.supervised.training.job import Channel, Job, Kind, Report


class Validation(TrainerCallback):
    """Validates before the first step, whenever due and after the last step; ``newest`` are the last figures.

    Args:
        trainer: whose model is validated.
        job: the job.
        channel: where figures are reported.
        measure: the figures by name; all ranks call it together, with the model in evaluation mode. None: nothing is held out.
        title: what is reported before it begins, if anything.
    """

    def __init__(
        self,
        trainer: Trainer,
        job: Job[PlainRankKeys],
        channel: Channel,
        measure: Callable[[], dict[str, float]] | None,
        title: str = "",
    ):
        self._trainer, self._job, self._channel, self._measure, self._title = trainer, job, channel, measure, title
        self._every = job.config.eval_every or job.steps_per_epoch
        self.newest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Before the first step of a run that is not resumed."""
        if state.global_step == 0:
            self._validate(0)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """When due, and after the last step."""
        if state.global_step % self._every == 0 or state.global_step == self._job.steps:
            self._validate(state.global_step)

    def _validate(self, step: int) -> None:
        if self._measure is None:
            return
        first = dist.get_rank() == 0
        if self._title and first:
            self._channel.send(Report(Kind.SAY, step, text=f"step {step}: {self._title}"))
        model = self._trainer.model_wrapped
        model.eval()
        with torch.no_grad(), self._trainer.compute_loss_context_manager():
            self.newest = self._measure()
        model.train()
        if first:
            self._channel.send(Report(Kind.EVALUATION, step, values=self.newest))


def batches_of_rank(count: int, micro: int, rank: int, world: int) -> list[tuple[list[int], bool]]:
    """This rank's batches of ``count`` examples, ``micro`` or fewer; True where a batch is only to keep step.

    Every rank has as many, and in each round as long ones: where ranks share the model a forward pass is collective, and a loss
    with in-batch negatives makes as many passes as its batch has negatives.
    """
    found, start = [], 0
    while start < count:
        size = max(1, min(micro, (count - start) // world))
        mine = list(range(start + rank * size, min(count, start + (rank + 1) * size)))
        found.append((mine or list(range(size)), not mine))
        start += size * world
    return found


def batches_of_this_rank(count: int, micro: int) -> list[tuple[list[int], bool]]:
    """The ``batches_of_rank`` of this process's rank."""
    return batches_of_rank(count, micro, dist.get_rank(), dist.get_world_size())
