"""What each rank of an ESCI training does: rows, model, transformers' Trainer plain or over DeepSpeed, the final folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments, set_seed

from r0.config import EsciConfig
from r0.supervised.esci.data import TRAIN, Ordered, Rows
from r0.supervised.esci.examples import EsciCollate
from r0.supervised.esci.folder import save_final
from r0.supervised.esci.model import class_logits, open_causal
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.esci.told import to_tell
from r0.supervised.esci.validation import Validation
from r0.supervised.training.job import Channel, Job, Kind, Report
from r0.supervised.training.ranks import (
    OrderedTrainer,
    checkpointed,
    common_arguments,
    fit,
    half,
    keeps_logits,
    meet_deepspeed,
    quiet,
    schedule,
    with_lora,
)


def train_rank(job: Job[EsciConfig], channel: Channel) -> None:
    """Train as one rank of an initialised ``torch.distributed`` group, and save the final model with the others.

    Raises:
        UserError: what is wrong with the model.
    """
    quiet()
    config, folder = job.config, Path(job.model)
    arguments = training_arguments(job)  # before the model: ZeRO-3 splits it while it loads
    prompter = EsciPrompter.open(folder, to_tell(config, None))
    set_seed(config.seed)  # of new adapters
    model = _open(config, folder)
    train = Ordered(Rows(Path(job.run) / "data" / TRAIN), config.seed, config.batch_size, job.steps)
    trainer = EsciTrainer(
        model=model, args=arguments, data_collator=EsciCollate(prompter, keeps_logits(model)), train_dataset=train
    )  # fmt: skip
    trainer.prepare(prompter.words)
    validation = Validation(trainer, job, channel)
    trainer.add_callback(validation)
    if not fit(trainer, job, channel):
        return
    save_final(trainer, job, prompter)
    if dist.get_rank() == 0:
        channel.send(Report(Kind.DONE, job.steps, values=validation.newest))


def training_arguments(job: Job[EsciConfig]) -> TrainingArguments:
    """The Trainer's settings."""
    config = job.config
    settings = {**common_arguments(job), **schedule(config, job.steps)}
    if not config.zero_stage:
        settings |= {"deepspeed": None, "ddp_find_unused_parameters": False, "ddp_backend": dist.get_backend()}
    return TrainingArguments(**settings | {"save_total_limit": config.keep, "logging_steps": config.log_every})


def _open(config: EsciConfig, folder: Path) -> Any:
    """The language model with its adapters. Weights that are trained without DeepSpeed stay float32: there bf16 is autocast."""
    if config.zero_stage:
        meet_deepspeed()
    frozen = config.lora.r > 0
    weights = torch.bfloat16 if half(config) and (config.zero_stage or frozen) else torch.float32
    model = open_causal(folder, half(config), config.no_flash_attn, weights)
    if checkpointed(config):
        model.config.use_cache = False
    return with_lora(model, config, "CAUSAL_LM")


class EsciTrainer(OrderedTrainer):
    """Cross-entropy over the four label tokens."""

    def prepare(self, words: tuple[int, ...]) -> None:
        """Take the label tokens."""
        self._words = words
        self.model_accepts_loss_kwargs = False  # the loss is a mean over rows: accumulation divides it

    def class_logits(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """[B, 4]."""
        return class_logits(model, inputs, self._words)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The mean over the rows of a micro-batch."""
        loss = cross_entropy(self.class_logits(model, inputs["inputs"]), inputs["classes"])
        return (loss, None) if return_outputs else loss

    def step_values(self) -> dict[str, float]:
        """Nothing beside the loss."""
        return {}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: nobody reads it."""
        return 0
