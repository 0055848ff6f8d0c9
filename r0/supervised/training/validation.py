"""Validation during a supervised run; every rank computes its share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from r0.config import PlainRankKeys
from r0.supervised.training.finite import check_figures
from r0.supervised.training.job import Channel, Job, Kind, Report


class Validation(TrainerCallback):
    """Validates before the first step, at the configured interval and after the last step; ``newest`` are the last metrics.

    Args:
        trainer: its model is validated.
        job: the job.
        channel: receives the metrics.
        measure: computes the metrics by name; collective, with the model in evaluation mode. None: no data is held out.
        title: message before each validation, if any.
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
        """Validate before the first step of a new run, and in a run resumed after its last step, which has no metrics yet."""
        if state.global_step in (0, self._job.steps):
            self._validate(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Validate at the configured interval and after the last step."""
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
        check_figures(step, self.newest.values())
        model.train()
        if first:
            self._channel.send(Report(Kind.EVALUATION, step, values=self.newest))


def batches_of_rank(count: int, micro: int, rank: int, world: int) -> list[tuple[list[int], bool]]:
    """The batches of this rank over ``count`` examples, at most ``micro`` each; with True if a batch is a dummy.

    All ranks have equally many batches of equal lengths: if ranks share the model, a forward pass is collective, and a loss with
    in-batch negatives makes as many passes as its batch has negatives.
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
