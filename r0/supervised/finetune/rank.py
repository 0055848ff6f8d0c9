"""A rank of ``finetune``: sentence-transformers' CrossEncoderTrainer with plain ranks, DeepSpeed or FSDP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
from transformers import set_seed

from r0.config import FinetuneConfig
from r0.data.hashes import Shuffle, hash_key
from r0.errors import UserError
from r0.supervised.finetune.data import TRAIN, VALIDATION, prepared
from r0.supervised.finetune.losses import make_loss, sees_whole_batch
from r0.supervised.finetune.model import add_adapters, open_model
from r0.supervised.finetune.plan import plan_model
from r0.supervised.finetune.save import save_model
from r0.supervised.finetune.trainer import Trainer
from r0.supervised.finetune.validation import HeldOut
from r0.supervised.training.fsdp import shard
from r0.supervised.training.job import Channel, Job
from r0.supervised.training.ranks import fit, init_deepspeed, silence_libraries, training_arguments, uses_bf16
from r0.supervised.training.validation import Validation


def train_rank(job: Job[FinetuneConfig], channel: Channel) -> None:
    """Train as one rank of an initialised ``torch.distributed`` group, and save the final model with the others.

    Raises:
        UserError: the model cannot be used.
    """
    silence_libraries()
    config, folder, data = job.config, Path(job.model), Path(job.run) / "data"
    if config.zero_stage:
        init_deepspeed()
    arguments = _arguments(job)  # before the model: ZeRO-3 splits it while it loads
    set_seed(config.seed)  # of a new score head
    weights = torch.bfloat16 if uses_bf16(config) and config.zero_stage else torch.float32  # without DeepSpeed bf16 is autocast
    plan = plan_model(config, folder)
    model = add_adapters(open_model(config, folder, plan, weights, str(arguments.device)), config)
    train = Dataset.from_file(str(data / TRAIN))
    trainer = Trainer(model=model, args=arguments, train_dataset=train, loss=make_loss(model, config))
    if config.fsdp:
        shard(trainer, model[0].model)
    held_out = HeldOut(trainer, job) if (data / VALIDATION).is_file() else None
    validation = Validation(trainer, job, channel, held_out.figures if held_out else None)

    def finish() -> dict[str, float]:
        save_model(trainer, job, plan)
        return validation.newest

    fit(trainer, job, channel, finish, validation)


def _arguments(job: Job[FinetuneConfig]) -> CrossEncoderTrainingArguments:
    """The Trainer's settings: a schedule of warm-up, constant rate and cosine decay; a batch sampler from ``_sampler``."""
    config = job.config
    warmup = round(config.warmup_ratio * job.steps)
    settings = training_arguments(job)
    if config.fsdp:
        settings["fsdp"] = True
    if sees_whole_batch(str(config.loss_type)):
        settings |= {"per_device_train_batch_size": config.batch_size // config.ranks, "gradient_accumulation_steps": 1}
    settings |= {
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {
            "num_decay_steps": max(1, job.steps - warmup - round(config.stable_ratio * job.steps)),
            "decay_type": "cosine",
        },
        "warmup_steps": warmup,
        "save_steps": min(job.save_every if config.save_every or config.save_on_epoch_end else job.steps, job.steps),
        "batch_sampler": _sampler(config.batch_size, _parts(job)),
        "dataloader_drop_last": True,
    }
    return CrossEncoderTrainingArguments(**settings)


def _parts(job: Job[FinetuneConfig]) -> tuple[int, ...]:
    counts = prepared(Path(job.run) / "data")
    if counts is None:
        raise UserError(f"{job.run}: its data went away; start over with fresh=true")
    return counts.parts


def _sampler(batch_size: int, parts: Sequence[int]) -> type[DefaultBatchSampler]:
    """A batch sampler class that yields whole updates; their order depends on (seed, epoch), not on the ranks.

    Each epoch uses the next of the ``parts`` of the examples; after the last part, all epochs use it. The length of every epoch
    is that of the smallest part.
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
