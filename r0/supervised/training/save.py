"""The final model as an ordinary Hugging Face folder; checkpoints are read without running what they pickle."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, Trainer

from r0.supervised.training.job import Job


def save_model(trainer: Trainer, job: Job, tokenizer: Any, more: Callable[[Path], None] = lambda folder: None) -> None:
    """All ranks together write ``model/`` (LoRA merged) and, after LoRA, ``adapter/``; rank 0 holds the gathered weights.

    Each folder is written beside its place and renamed: it is whole or not there. ``more`` adds to ``model/`` before.
    """
    split = job.config.zero_stage == 3
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if split else None  # gathers; collective
    if dist.get_rank() == 0:
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        if job.config.lora.r:
            with whole_folder(Path(job.run) / "adapter") as folder:
                model.save_pretrained(folder, state_dict=weights)
            model, weights = _merged(job, model.dtype), None
        model.config.use_cache = True
        with whole_folder(Path(job.run) / "model") as folder:
            model.save_pretrained(folder, state_dict=weights)
            tokenizer.save_pretrained(folder)
            more(folder)
    dist.barrier()


def _merged(job: Job, dtype: torch.dtype) -> Any:
    """The start model with the adapter in its weights, on the CPU; added in float32, since the update is small."""
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # else ZeRO-3 would split this model too while it loads
    base = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(Path(job.run) / "adapter")).merge_and_unload().to(dtype)


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of ``final`` when the block ends, and is whole or not there."""
    partial = final.with_name(f".partial-{final.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(final, ignore_errors=True)
    os.rename(partial, final)


@contextlib.contextmanager
def known_pickles() -> Iterator[None]:
    """Inside, ``torch.load`` builds tensors, plain containers and the classes below only, whatever its caller asks for.

    DeepSpeed loads its checkpoints with ``weights_only=False``, which would run any code that a file holds.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    load = torch.load

    def careful(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **{**kwargs, "weights_only": True})

    with torch.serialization.safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]):
        torch.load = careful
        try:
            yield
        finally:
            torch.load = load
