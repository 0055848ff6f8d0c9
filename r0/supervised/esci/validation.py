"""Held-out evaluation during an ESCI training. Every rank takes its share.

Dimensions: N held-out rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState

from r0.config import EsciConfig
from r0.data.esci import CLASSES
from r0.supervised.esci.data import HELDOUT, Rows
from r0.supervised.esci.measure import measure
from r0.supervised.finetune.validation import shares
from r0.supervised.training.job import Channel, Job, Kind, Report

if TYPE_CHECKING:
    from r0.supervised.esci.rank import EsciTrainer

ROWS = 16  # computed at one time


class Validation(TrainerCallback):
    """Validates before the first step and whenever due; ``newest`` are the last figures."""

    def __init__(self, trainer: EsciTrainer, job: Job[EsciConfig], channel: Channel):
        self._trainer, self._job, self._channel = trainer, job, channel
        self._every = job.config.eval_every or job.steps_per_epoch
        self._rows = Rows(Path(job.run) / "data" / HELDOUT)
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
        if not len(self._rows):
            return
        if dist.get_rank() == 0:
            self._channel.send(Report(Kind.SAY, step, text=f"step {step}: measuring {len(self._rows)} held-out rows"))
        model = self._trainer.model_wrapped
        model.eval()
        with torch.no_grad(), self._trainer.compute_loss_context_manager():
            probabilities_N4 = self._probabilities()
        model.train()
        found = measure(probabilities_N4, np.array(self._rows.column("label")), self._rows.column("query"))
        self.newest = {f"heldout/{name}": value for name, value in found.figures().items()}
        if dist.get_rank() == 0:
            self._channel.send(Report(Kind.EVALUATION, step, values=self.newest))

    def _probabilities(self) -> np.ndarray:
        """[N, 4]; every rank has them all. Ranks compute as many batches; those without a share of their own count nothing."""
        found_N4 = torch.zeros(len(self._rows), len(CLASSES), dtype=torch.float64, device=self._trainer.args.device)
        for mine, dummy in shares(len(self._rows), ROWS, dist.get_rank(), dist.get_world_size()):
            batch = self._trainer._prepare_inputs(self._trainer.data_collator([self._rows[place] for place in mine]))
            logits_B4 = self._trainer.class_logits(self._trainer.model, batch["inputs"])
            if not dummy:
                found_N4[mine[0] : mine[-1] + 1] = logits_B4.double().softmax(dim=1)
        dist.all_reduce(found_N4)
        return found_N4.cpu().numpy()
