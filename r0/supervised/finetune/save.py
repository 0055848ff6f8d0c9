"""Writes the final cross-encoder and adapter of ``finetune``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from r0.config import FinetuneConfig
from r0.supervised.finetune.model import open_model
from r0.supervised.finetune.plan import Plan
from r0.supervised.finetune.trainer import INNER, Trainer, save_cross_encoder, transformer_of
from r0.supervised.training.job import Job
from r0.supervised.training.save import Weights, save_final, with_adapter, write_pretrained


def save_model(trainer: Trainer, job: Job[FinetuneConfig], plan: Plan) -> None:
    """Write ``model/`` (LoRA merged) and, with LoRA, ``adapter/``; collective."""

    def write(folder: Path, model: CrossEncoder, weights: Weights | None) -> None:
        transformer_of(model).model.config.use_cache = True  # sentence-transformers had switched it off
        save_cross_encoder(model, folder, weights)
        own = Path(job.model) / "generation_config.json"
        if plan.kind == "yes_no" and own.is_file() and not (folder / own.name).is_file():
            shutil.copy(own, folder)

    def write_adapter(folder: Path, model: CrossEncoder, weights: Weights | None) -> None:
        inner = None if weights is None else {name.removeprefix(INNER): value for name, value in weights.items()}
        write_pretrained(folder, transformer_of(model).model, inner)

    def merged(_: Job, dtype: Any) -> CrossEncoder:
        model = open_model(job.config, Path(job.model), plan, torch.float32, "cpu")
        transformer_of(model).model = with_adapter(transformer_of(model).model, job).to(dtype)
        return model

    save_final(trainer, job, write, write_adapter, merged)
