"""Starts vLLM in this process, with the settings of an engine."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.sizes import Card
from r0.actors.rollout.vllm_options import cpu_options, gpu_options
from r0.actors.rollout.vllm_patches import leave_transformers_alone, prepare_cpu
from r0.actors.rollout.vllm_process import (
    configure_logging,
    patch_llvmlite,
    set_environment,
    unsupported_architecture,
    without_expandable_segments,
)
from r0.errors import UserError
from r0.process.folders import scratch
from r0.process.gpus import check_vllm, cuda_available
from r0.process.lean_imports import hidden
from r0.storage.loading import refuse_quantized
from r0.storage.model_checks import quantization
from r0.storage.positions import positions


def start_vllm(settings: EngineSettings) -> tuple[Any, int]:
    """A vLLM engine, and its number of concurrent completions.

    Raises:
        UserError: vLLM is not installed, or the build for another device; the card is too small, or there are too few cards.
    """
    on_gpu = settings.device != "cpu" and cuda_available()
    check_vllm(on_gpu)
    set_environment()
    if settings.sleep:
        without_expandable_segments()
    configure_logging()
    patch_llvmlite()
    import torch

    if not on_gpu:
        torch.set_num_threads(settings.threads)
    set_num_threads = torch.set_num_threads
    with warnings.catch_warnings(), hidden("scipy.signal"):  # vLLM has it for audio; its import takes a second
        warnings.simplefilter("ignore", FutureWarning)
        from vllm import LLM
        from vllm.config.weight_transfer import WeightTransferConfig
    if not on_gpu:
        prepare_cpu()
    if not on_gpu or settings.enforce_eager or settings.transfer == "local":
        leave_transformers_alone()
    options = gpu_options(settings, _card(settings)) if on_gpu else cpu_options(settings)
    if positions(Path(settings.model)) is not None:  # compared by check_length, which knows more kinds of rope scaling than vLLM
        os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    dtype = {"bf16": "bfloat16", "fp32": "float32", "auto": "bfloat16" if on_gpu else "float32"}[settings.dtype]
    if dtype == "bfloat16" and not quantization(Path(settings.model)):
        options["hf_overrides"] = {"head_dtype": "float32"}  # logits, as the learner has them (storage/output_head.py)
    # vLLM seeds the generators of the process that computes: this one, unless the engine is tensor-parallel.
    seeded = [torch.cuda.current_device()] if on_gpu and settings.tensor_parallel_size == 1 else []
    with torch.random.fork_rng(devices=seeded), warnings.catch_warnings(), scratch():
        warnings.simplefilter("ignore", FutureWarning)
        llm = _loaded(
            LLM,
            settings.model,
            dtype=dtype,
            max_model_len=settings.max_model_len,
            enforce_eager=settings.enforce_eager or not on_gpu,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",  # ignore sampling defaults in the model's folder
            skip_tokenizer_init=True,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            weight_transfer_config=WeightTransferConfig(backend=settings.transfer),
            worker_extension_cls="r0.actors.sync.vllm_transfer.WorkerExtension",
            **options,
        )
    torch.set_num_threads = set_num_threads  # vLLM replaces it by a stub
    return llm, options["max_num_seqs"]


def _loaded(make: Any, folder: str, **options: Any) -> Any:
    """vLLM with the model in ``folder``.

    Raises:
        UserError: the model is quantized in a way that vLLM does not load here, or of an architecture that it does not run here.
    """
    try:
        return make(folder, **options)
    except Exception as error:
        refuse_quantized(Path(folder), error)
        if (problem := unsupported_architecture(error)) is not None:
            raise problem from error
        raise


def _card(settings: EngineSettings) -> Card:
    """The memory of each of the engine's cards.

    Raises:
        UserError: there are fewer cards than the engine needs.
    """
    import torch
    from vllm.platforms import current_platform

    if (have := torch.cuda.device_count()) < (size := settings.tensor_parallel_size):
        raise UserError(f"rollout.tensor_parallel_size: an engine of {size} GPUs sees only {have}; use at most {have}")
    total = current_platform.get_device_total_memory()  # from the driver: torch would allocate a context
    return Card(total, free=torch.cuda.mem_get_info()[0] - settings.learner_growth if settings.shared_card else None)
