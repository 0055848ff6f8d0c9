"""What each rank of a fine-tuning does: sentence-transformers' CrossEncoderTrainer over plain ranks, DeepSpeed or FSDP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
import transformers
from datasets import Dataset
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from sentence_transformers import CrossEncoder
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from transformers import set_seed

from r0.config import FinetuneConfig
from r0.data.hashes import Shuffle, hash_key
from r0.errors import UserError
from r0.supervised.finetune.data import TRAIN, prepared
from r0.supervised.finetune.losses import make_loss, sees_whole_batch
from r0.supervised.finetune.model import adapted, open_model
from r0.supervised.finetune.plan import plan_model
from r0.supervised.finetune.save import save_cross_encoder, save_final
from r0.supervised.finetune.validation import Validation
from r0.supervised.training.fsdp import shard
from r0.supervised.training.job import Channel, Job, Kind, Report
from r0.supervised.training.ranks import common_arguments, fit, half, quiet


def train_rank(job: Job[FinetuneConfig], channel: Channel) -> None:
    """Train as one rank of an initialised ``torch.distributed`` group, and save the final model with the others.

    Raises:
        UserError: what is wrong with the model.
    """
    quiet()
    config, folder = job.config, Path(job.model)
    if config.zero_stage:  # else ZeRO-3 takes itself for alone while the model loads
        deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    arguments = training_arguments(job)  # before the model: ZeRO-3 splits it while it loads
    set_seed(config.seed)  # of a new score head
    weights = torch.bfloat16 if half(config) and config.zero_stage else torch.float32  # without DeepSpeed bf16 is autocast
    plan = plan_model(config, folder)
    model = adapted(open_model(config, folder, plan, weights, str(arguments.device)), config)
    train = Dataset.from_file(str(Path(job.run) / "data" / TRAIN))
    trainer = Trainer(model=model, args=arguments, train_dataset=train, loss=make_loss(model, config))
    if config.fsdp:
        shard(trainer, model[0].model)
    validation = Validation(trainer, job, channel)
    trainer.add_callback(validation)
    if not fit(trainer, job, channel):
        return
    save_final(trainer, job, plan)
    if dist.get_rank() == 0:
        channel.send(Report(Kind.DONE, job.steps, values=validation.newest))


def training_arguments(job: Job[FinetuneConfig]) -> CrossEncoderTrainingArguments:
    """The Trainer's settings: warm-up, stable, cosine; ``order`` as batch sampler."""
    config = job.config
    warmup = round(config.warmup_ratio * job.steps)
    settings = common_arguments(job)
    if not config.zero_stage:
        settings |= {"deepspeed": None, "ddp_find_unused_parameters": False, "ddp_backend": dist.get_backend()}
    if config.fsdp:
        settings["fsdp"] = True
    if sees_whole_batch(str(config.loss_type)):
        settings |= {"per_device_train_batch_size": config.batch_size // config.ranks, "gradient_accumulation_steps": 1}
    return CrossEncoderTrainingArguments(
        **{
            **settings,
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {
                "num_decay_steps": max(1, job.steps - warmup - round(config.stable_ratio * job.steps)),
                "decay_type": "cosine",
            },
            "warmup_steps": warmup,
            "save_steps": min(job.save_every if config.save_every or config.save_on_epoch_end else job.steps, job.steps),
            "save_total_limit": config.keep,
            "logging_steps": config.log_every,
            "batch_sampler": _sampler(config.batch_size, _parts(job)),
            "dataloader_drop_last": True,
        }
    )


class Trainer(CrossEncoderTrainer):
    """sentence-transformers' own, but for what it saves: the gathered weights (its own are empty under ZeRO-3), and no pickle."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: r0 writes the card."""

    def step_values(self) -> dict[str, float]:
        """Nothing beside the loss."""
        return {}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        save_cross_encoder(self.cross_encoder, Path(output_dir or self.args.output_dir), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        inner = self.cross_encoder[0].model
        if self.is_fsdp_enabled:  # sentence-transformers' own knows neither FSDP nor adapters
            transformers.Trainer._load_from_checkpoint(self, resume_from_checkpoint, model)
        elif isinstance(inner, PeftModel):
            set_peft_model_state_dict(inner, load_peft_weights(resume_from_checkpoint, device="cpu"))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint)

    @property
    def cross_encoder(self) -> CrossEncoder:
        """The model itself, whatever it is wrapped in."""
        return self.accelerator.unwrap_model(self.model)


def _parts(job: Job[FinetuneConfig]) -> tuple[int, ...]:
    counts = prepared(Path(job.run) / "data")
    if counts is None:
        raise UserError(f"{job.run}: its data went away; start over with fresh=true")
    return counts.parts


def _sampler(batch_size: int, parts: Sequence[int]) -> type[DefaultBatchSampler]:
    """A batch sampler class: whole updates of examples whose order is a function of (seed, epoch) and not of the ranks.

    Epoch after epoch takes the next of the ``parts`` that the examples are in, and then stays with the last; all epochs are as
    long as the smallest part has it.
    """
    length = min(parts) // batch_size * batch_size

    class Order(DefaultBatchSampler):
        def __iter__(self) -> Iterator[list[int]]:
            part = min(self.epoch, len(parts) - 1)
            first, order = sum(parts[:part]), Shuffle(parts[part], hash_key(self.seed, "order", self.epoch))
            for start in range(0, length, self.batch_size):
                yield [first + order[place] for place in range(start, start + self.batch_size)]

        def __len__(self) -> int:
            return length // self.batch_size

    return Order
