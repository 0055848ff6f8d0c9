"""What the ranks of a supervised run report at each step, and what they do at a stop request, a checkpoint or a NaN."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState

from r0.actors.learner.saved_state import random_states, set_random_states
from r0.errors import UserError
from r0.storage.manifest import write_manifest
from r0.supervised.training.finite import LOWER, finite, on_any_rank
from r0.supervised.training.job import Channel, Job, Kind, Report
from r0.supervised.training.progress import Progress

COUNTED = "counted"  # key of a micro-batch: what is counted of its rows


def follow_schedule(scheduler: Any) -> None:
    """Set the learning rates of the next step; a loaded optimizer has those of the schedule that it was saved with.

    Args:
        scheduler: a ``LambdaLR``, or accelerate's wrapper of one.
    """
    inner = getattr(scheduler, "scheduler", scheduler)
    rates = [rate * share(inner.last_epoch) for rate, share in zip(inner.base_lrs, inner.lr_lambdas, strict=True)]
    for group, rate in zip(inner.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    inner._last_lr = rates


class StepValues:
    """A Trainer with additional metrics of each step, which notes a loss that is NaN or infinite and counts its rows."""

    counts: Mapping[str, int] = {}  # of this rank, over the micro-batches of the whole run
    broken: torch.Tensor | None = None  # whether a loss of this rank was; not copied from the device before a step ends

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> torch.Tensor:
        """Unchanged, but for the note and the counts, which a micro-batch carries as ``COUNTED``."""
        counted = inputs.pop(COUNTED, {})
        self.counts = {**self.counts, **{name: self.counts.get(name, 0) + count for name, count in counted.items()}}
        loss: torch.Tensor = super().training_step(model, inputs, *arguments, **options)  # type: ignore[misc]
        bad = ~loss.detach().isfinite().all()
        self.broken = bad if self.broken is None else self.broken | bad
        return loss

    def _prepare_input(self, data: Any) -> Any:
        """Unchanged, but labels keep their dtype: under DeepSpeed the Trainer rounds them to the model's."""
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device)  # type: ignore[attr-defined]
        return super()._prepare_input(data)  # type: ignore[misc]

    def step_values(self) -> dict[str, float]:
        """Metrics of the step that has just ended, in addition to the loss."""
        return {}

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """Unchanged, but not after the last step: a run resumed there in the middle of an epoch would make one more."""
        if self.state.global_step < self.state.max_steps:  # type: ignore[attr-defined]
            super()._run_epoch(*arguments, **options)  # type: ignore[misc]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: the count is not used."""
        return 0


class ReportCallback(TrainerCallback):
    """Reports every step, writes the manifest of complete checkpoints, and ends the run at a checkpoint on a stop request.

    It does not wait for a step's other micro-batches: no weight has changed since the step before, whose checkpoint is saved.
    """

    def __init__(self, trainer: StepValues, job: Job, channel: Channel):
        self._trainer, self._job, self._channel = trainer, job, channel
        self._began, self._rate = time.monotonic(), 0.0
        self._random: dict[str, Any] = {}  # states of the generators before the step
        self._progress: Progress | None = None  # before the step
        self.stopped = False

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, lr_scheduler: Any = None, **__: Any) -> None:
        """Give a resumed run what it had added up, and, as it may be longer than before, its own interval of checkpoints and its
        own learning rate.
        """
        state.compute_steps(args, state.max_steps)
        follow_schedule(lr_scheduler)
        if state.global_step and (progress := Progress.load(_checkpoint(args, state))):
            progress.give(self._trainer)

    def on_step_begin(self, args: Any, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Start the step's clock, and note its learning rate: in the Trainer's logs it is the next step's under DeepSpeed."""
        self._began, self._rate = time.monotonic(), float(optimizer.param_groups[0]["lr"])
        self._random, self._progress = random_states(args.device), Progress.of(self._trainer)

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """End the run after a micro-batch that is not the step's last, if the driver has asked for it."""
        if self.asked(args.device):
            self.stopped = control.should_training_stop = True
            control.should_save = state.global_step > self._job.newest()[1]
            set_random_states(self._random)
            if self._progress is not None:
                self._progress.give(self._trainer)
            self._check_weights(args, state, control, model)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """End the run at a checkpoint if the driver has asked for it, and without one if there is a NaN on any rank.

        Raises:
            UserError: a loss is NaN or infinite, or a weight that is about to be saved.
        """
        if any(on_any_rank(args.device, bool(self._trainer.broken))):
            raise UserError(f"step {state.global_step}: the loss is NaN or infinite; {LOWER}")
        if self.asked(args.device) and state.global_step < self._job.steps:
            self.stopped = control.should_save = control.should_training_stop = True
        self._check_weights(args, state, control, model)

    def _check_weights(self, args: Any, state: TrainerState, control: TrainerControl, model: Any) -> None:
        if control.should_save and any(on_any_rank(args.device, not finite(model))):
            raise UserError(f"step {state.global_step}: a weight is NaN or infinite, so no checkpoint is written; {LOWER}")

    def asked(self, device: torch.device) -> bool:
        """Whether the driver wants the run to stop; all ranks see the same wish, rank 0's."""
        asked = torch.tensor([float(dist.get_rank() == 0 and self._channel.stop_asked())], device=device)
        dist.broadcast(asked, src=0)
        return bool(asked.item())

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        """Report a step."""
        if "loss" not in logs or dist.get_rank() != 0:
            return
        values = {name: float(logs[name]) for name in ("loss", "grad_norm") if logs.get(name) is not None}
        values |= {"learning_rate": self._rate} | self._trainer.step_values()
        seconds = {"learn": time.monotonic() - self._began}
        self._channel.send(Report(Kind.STEP, state.global_step, values, seconds))

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write this rank's sums, and the manifest of a checkpoint once every rank has written its part."""
        Progress.of(self._trainer).save(_checkpoint(args, state))
        dist.barrier()
        if dist.get_rank() == 0:
            write_manifest(_checkpoint(args, state))


def _checkpoint(args: Any, state: TrainerState) -> Path:
    """The folder of the checkpoint after the step that the Trainer is at."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
