"""A rank of an ESCI run: rows, model, transformers' Trainer with or without DeepSpeed, the final folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from r0.config import EsciConfig
from r0.data.esci import GAIN_SETS
from r0.supervised.esci.data import TRAIN, Rows, ShuffledRows
from r0.supervised.esci.examples import EsciCollate
from r0.supervised.esci.folder import folder_writers
from r0.supervised.esci.model import open_causal
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.esci.prompt_file import prompt_settings
from r0.supervised.esci.trainer import EsciTrainer
from r0.supervised.esci.validation import HeldOut
from r0.supervised.training.causal import supports_logits_to_keep
from r0.supervised.training.job import Channel, Job
from r0.supervised.training.ranks import fit, init_deepspeed, prepare_model, silence_libraries, training_arguments, uses_bf16
from r0.supervised.training.save import save_final
from r0.supervised.training.validation import Validation


def train_rank(job: Job[EsciConfig], channel: Channel) -> None:
    """Train as one rank of an initialised ``torch.distributed`` group, and save the final model with the others.

    Raises:
        UserError: the model cannot be used.
    """
    silence_libraries()
    config, folder, data = job.config, Path(job.model), Path(job.run) / "data"
    arguments = TrainingArguments(**training_arguments(job))  # before the model: ZeRO-3 splits it while it loads
    prompter = EsciPrompter.open(folder, prompt_settings(config, None))
    set_seed(config.seed)  # of new adapters
    model = _open(config, folder)
    train = ShuffledRows(Rows(data / TRAIN), config.seed, config.batch_size, job.steps)
    collate = EsciCollate(prompter, supports_logits_to_keep(model))
    trainer = EsciTrainer(model=model, args=arguments, data_collator=collate, train_dataset=train)
    trainer.prepare(prompter.words)
    held_out = HeldOut(trainer, Path(job.run), GAIN_SETS[job.config.gains])
    validation = Validation(trainer, job, channel, held_out.figures if len(held_out) else None, held_out.title)

    def finish() -> dict[str, float]:
        save_final(trainer, job, *folder_writers(prompter))
        return validation.newest

    fit(trainer, job, channel, finish, validation)


def _open(config: EsciConfig, folder: Path) -> Any:
    """The language model with its adapters. Without DeepSpeed, trained weights are float32, and bf16 is used by autocast."""
    if config.zero_stage:
        init_deepspeed()
    frozen = config.lora.r > 0
    weights = torch.bfloat16 if uses_bf16(config) and (config.zero_stage or frozen) else torch.float32
    return prepare_model(open_causal(folder, uses_bf16(config), config.no_flash_attn, weights), config, "CAUSAL_LM")
