"""A rank of ``sft``: rows, model, transformers' Trainer on DeepSpeed, the final model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer

from r0.config import SftConfig
from r0.supervised.sft.examples import IGNORED, Collate, Counts, OpenRows
from r0.supervised.training.causal import causal_trainer
from r0.supervised.training.job import Channel, Job, Kind, Report, micro_batch
from r0.supervised.training.ranks import OrderedTrainer, fit, silence_libraries, sum_over_ranks, to_device
from r0.supervised.training.report import COUNTED
from r0.supervised.training.save import causal_writer, save_final
from r0.supervised.training.validation import batches_of_this_rank
from r0.text.prompt_file import save_prompt

HELDOUT_TASKS = 256  # held-out rows whose loss is measured at the end, at most


def train_rank(job: Job[SftConfig], channel: Channel) -> None:
    """Train as one rank of an initialised ``torch.distributed`` group, and save the final model with the others.

    Raises:
        UserError: the model or the data cannot be used.
    """
    silence_libraries()
    rows = OpenRows(job)
    trainer = causal_trainer(_Trainer, job, rows, Collate)

    def finish() -> dict[str, float]:
        figures = {**sum_over_ranks({**asdict(Counts()), **trainer.counts}), **_heldout_loss(trainer, rows, job)}
        prompter = rows.prompter
        asked = (job.config.form, prompter.system_prompt, prompter.template.variables)
        write = causal_writer(prompter.tokenizer, lambda folder: save_prompt(folder, *asked))
        save_final(trainer, job, write)
        if dist.get_rank() == 0:
            channel.send(Report(Kind.EVALUATION, job.steps, values=figures))
        return figures

    fit(trainer, job, channel, finish)


class _Trainer(OrderedTrainer):
    """Records the number of trained tokens of each step."""

    tokens = 0

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """The micro-batches of a step, and its number of tokens over all ranks."""
        batches, tokens = super().get_batch_samples(*args, **kwargs)
        self.tokens = 0 if tokens is None else int(tokens)
        return batches, tokens

    def step_values(self) -> dict[str, float]:
        """The number of tokens of the step that has just ended."""
        return {"tokens": float(self.tokens)}


def _heldout_loss(trainer: Trainer, rows: OpenRows, job: Job[SftConfig]) -> dict[str, float]:
    """Mean loss per held-out completion token, in nats; empty if no rows are held out. Collective."""
    examples = [rows.example(task) for task in rows.heldout(HELDOUT_TASKS)]
    if not examples:
        return {}
    model, device = trainer.model_wrapped, trainer.args.device
    model.eval()
    loss, tokens = 0.0, 0
    for mine, dummy in batches_of_this_rank(len(examples), micro_batch(job.config)):
        batch = trainer.data_collator([examples[place] for place in mine])
        del batch[COUNTED]
        labels = batch.pop("labels")[:, 1:].to(device)
        with torch.no_grad():
            logits = model(**to_device(batch, device)).logits[:, :-1]
        if not dummy:
            flat = logits.flatten(0, 1).float()
            loss += torch.nn.functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum").item()
            tokens += int(labels.ne(IGNORED).sum())
    total = sum_over_ranks({"loss": loss, "tokens": tokens})
    return {"heldout/loss": total["loss"] / max(1.0, total["tokens"])}
