"""A cross-encoder on the disk: a folder that sentence-transformers and transformers load, with the weights that were gathered."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer

from r0.config import FinetuneConfig
from r0.supervised.finetune.model import open_model
from r0.supervised.finetune.plan import Plan
from r0.supervised.training.job import Job
from r0.supervised.training.save import whole_folder

if TYPE_CHECKING:
    from r0.supervised.finetune.rank import Trainer

INNER = "0.model."  # where the weights of the transformer stand in those of the cross-encoder


def save_cross_encoder(model: CrossEncoder, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write ``folder``.

    Args:
        model: whose format and settings are written.
        folder: where to.
        weights: by name as in ``model.state_dict()``; None: the model's own. Under ZeRO-3 those are empty.
    """
    transformer = _transformer(model)
    inner = transformer.model
    if weights is not None:
        own = {name.removeprefix(INNER): tensor for name, tensor in weights.items() if name.startswith(INNER)}
        inner.save_pretrained = partial(type(inner).save_pretrained, inner, state_dict=own)
    try:
        model.save_pretrained(str(folder), create_model_card=False)
    finally:
        inner.__dict__.pop("save_pretrained", None)


def save_final(trainer: Trainer, job: Job[FinetuneConfig], plan: Plan) -> None:
    """All ranks together write ``model/`` (LoRA merged) and, after LoRA, ``adapter/``; rank 0 holds the gathered weights.

    Each folder is written beside its place and renamed: it is whole or not there.
    """
    config = job.config
    split = config.zero_stage == 3 or config.fsdp
    gathered = trainer.accelerator.get_state_dict(trainer.model_wrapped) if split else None  # collective
    if dist.get_rank() == 0:
        model, weights = trainer.cross_encoder, gathered
        if config.lora.r:
            with whole_folder(Path(job.run) / "adapter") as folder:
                adapter = None if gathered is None else {name.removeprefix(INNER): value for name, value in gathered.items()}
                _transformer(model).model.save_pretrained(folder, state_dict=adapter)
            model, weights = _merged(job, plan, model.dtype), None
        _transformer(model).model.config.use_cache = True  # sentence-transformers had switched it off
        with whole_folder(Path(job.run) / "model") as folder:
            save_cross_encoder(model, folder, weights)
            own = Path(job.model) / "generation_config.json"
            if plan.kind == "yes_no" and own.is_file() and not (folder / own.name).is_file():
                shutil.copy(own, folder)
    dist.barrier()


def _merged(job: Job[FinetuneConfig], plan: Plan, dtype: Any) -> CrossEncoder:
    """The start model with the adapter in its weights, on the CPU; added in float32, since the update is small."""
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # else ZeRO-3 would split this model too while it loads
    model = open_model(job.config, Path(job.model), plan, torch.float32, "cpu")
    transformer = _transformer(model)
    merged = PeftModel.from_pretrained(transformer.model, str(Path(job.run) / "adapter")).merge_and_unload()
    transformer.model = merged.to(dtype)
    return model


def _transformer(model: CrossEncoder) -> Transformer:
    first = model[0]
    if not isinstance(first, Transformer):
        raise TypeError(f"a cross-encoder of {type(first).__name__} cannot be saved")
    return first
