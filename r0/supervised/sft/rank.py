"""What each rank of a warm start does: rows, model, transformers' Trainer over DeepSpeed, the final model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainingArguments

from r0.config import SftConfig
from r0.supervised.sft.examples import IGNORED, Collate, OpenRows, StepRows
from r0.supervised.training.job import Channel, Job, Kind, Report, micro_batch
from r0.supervised.training.ranks import (
    OrderedTrainer,
    causal_model,
    common_arguments,
    fit,
    keeps_logits,
    quiet,
    schedule,
    sum_over_ranks,
)
from r0.supervised.training.save import save_model
from r0.text.prompt_file import save_system_prompt

HELDOUT_TASKS = 256  # held-out rows whose loss is measured at the end, at most


def train_rank(job: Job[SftConfig], channel: Channel) -> None:
    """Train as one rank of an initialised ``torch.distributed`` group, and save the final model with the others.

    Raises:
        UserError: what is wrong with the model or the data.
    """
    quiet()
    # Before the model: ZeRO-3 splits it while it loads.
    arguments = TrainingArguments(**common_arguments(job), **schedule(job.config, job.steps))
    rows = OpenRows(job)
    model = causal_model(job.config, job.model)
    collate = Collate(rows.pad_id, keeps_logits(model))
    train = StepRows(rows, job.config.batch_size, job.steps)
    trainer = _Trainer(model=model, args=arguments, data_collator=collate, train_dataset=train)
    if not fit(trainer, job, channel):
        return
    figures = {**sum_over_ranks(asdict(collate.counts)), **_heldout_loss(trainer, rows, job)}
    prompter = rows.prompter
    save_model(
        trainer, job, prompter.tokenizer, lambda folder: save_system_prompt(folder, job.config.form, prompter.system_prompt)
    )
    if dist.get_rank() == 0:
        channel.send(Report(Kind.EVALUATION, job.steps, values=figures))
        channel.send(Report(Kind.DONE, job.steps, values=figures))


class _Trainer(OrderedTrainer):
    """Keeps the number of trained tokens of a step for the record."""

    tokens = 0

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """The micro-batches of a step, and its tokens over all ranks."""
        batches, tokens = super().get_batch_samples(*args, **kwargs)
        self.tokens = 0 if tokens is None else int(tokens)
        return batches, tokens

    def step_values(self) -> dict[str, float]:
        """The tokens of the step that has just ended."""
        return {"tokens": float(self.tokens)}


def _heldout_loss(trainer: Trainer, rows: OpenRows, job: Job[SftConfig]) -> dict[str, float]:
    """Mean loss of a held-out completion token, in nats; nothing when no rows are held out. Every rank computes as many rows."""
    examples = [rows.example(task) for task in rows.heldout(HELDOUT_TASKS)]
    if not examples:
        return {}
    micro, world, rank = micro_batch(job.config), dist.get_world_size(), dist.get_rank()
    model = trainer.model_wrapped
    model.eval()
    loss, tokens = 0.0, 0
    for start in range(0, len(examples), micro * world):
        mine = examples[start + rank * micro : start + (rank + 1) * micro]
        batch = trainer.data_collator(mine or examples[:1])
        labels = batch.pop("labels")[:, 1:].to(trainer.args.device)
        with torch.no_grad():
            logits = model(**{name: _to(value, trainer.args.device) for name, value in batch.items()}).logits[:, :-1]
        if mine:
            flat = logits.flatten(0, 1).float()
            loss += torch.nn.functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum").item()
            tokens += int(labels.ne(IGNORED).sum())
    total = sum_over_ranks({"loss": loss, "tokens": tokens})
    return {"heldout/loss": total["loss"] / max(1.0, total["tokens"])}


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
