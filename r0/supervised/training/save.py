"""Writes the final model as an ordinary Hugging Face folder, and loads checkpoints without executing pickled code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from r0.storage.files import whole_folder
from r0.storage.loading import load_model
from r0.supervised.training.job import Job

Weights = Mapping[str, torch.Tensor]  # by name
Write = Callable[[Path, Any, Weights | None], None]  # writes a model into a folder, with gathered weights (None: the model's)


def write_pretrained(folder: Path, model: Any, weights: Weights | None) -> None:
    """Write a model or its adapter with the library's ``save_pretrained``."""
    model.save_pretrained(folder, state_dict=weights)


def merged_causal(job: Job, dtype: torch.dtype) -> Any:
    """The language model that the job starts from with the adapter of the run in its weights."""
    return with_adapter(load_model(AutoModelForCausalLM, job.model, dtype=torch.float32), job).to(dtype)


def with_adapter(model: Any, job: Job) -> Any:
    """A float32 model on the CPU with the run's adapter merged; in float32 because the update is small."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(Path(job.run) / "adapter")).merge_and_unload()


def save_final(
    trainer: Trainer,
    job: Job,
    write: Write,
    write_adapter: Write = write_pretrained,
    merged: Callable[[Job, torch.dtype], Any] = merged_causal,
) -> None:
    """Write ``model/`` (LoRA merged) and, with LoRA, ``adapter/``; collective. Rank 0 holds the gathered weights.

    Each folder is written under a temporary name and renamed, so it is never incomplete.
    """
    split = job.config.zero_stage == 3 or trainer.is_fsdp_enabled
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if split else None  # gathers; collective
    if dist.get_rank() == 0:
        unset_hf_deepspeed_config()  # else ZeRO-3 would shard the models that are made or loaded here too
        model = trainer.accelerator.unwrap_model(trainer.model)
        if job.config.lora.r:
            with whole_folder(Path(job.run) / "adapter") as folder:
                write_adapter(folder, model, weights)
            model, weights = merged(job, model.dtype), None
        with whole_folder(Path(job.run) / "model") as folder:
            write(folder, model, weights)
    dist.barrier()


def causal_writer(tokenizer: Any, more: Callable[[Path], None]) -> Write:
    """A function that writes a language model and its tokenizer; ``more`` adds files to the folder."""

    def write(folder: Path, model: Any, weights: Weights | None) -> None:
        model.config.use_cache = True
        write_pretrained(folder, model, weights)
        tokenizer.save_pretrained(folder)
        more(folder)

    return write


@contextlib.contextmanager
def safe_torch_load() -> Iterator[None]:
    """In the block, ``torch.load`` creates only tensors, plain containers and the classes below, whatever its caller asks for.

    DeepSpeed loads its checkpoints with ``weights_only=False``, which would execute any code in the file.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    load = torch.load

    def load_weights_only(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **{**kwargs, "weights_only": True})

    with torch.serialization.safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]):
        torch.load = load_weights_only
        try:
            yield
        finally:
            torch.load = load
