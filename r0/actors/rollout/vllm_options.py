"""vLLM's options for the device of an engine: concurrent completions and memory. Does not import vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r0.actors.rollout.settings import EngineSettings, model_config
from r0.actors.rollout.sizes import CPU_KV_CACHE, GIB, Card, card_sizes, kv_bytes_per_token
from r0.errors import UserError
from r0.storage.weight_files import parameters

CPU_BLOCK = 32  # tokens per key-value block; the minimum of the CPU kernel, so that short prompts share a prefix too
ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")  # kinds of layers with keys and values
MIN_MEMORY_CHECK = 0.01  # free share of the card that vLLM checks for if the size of its cache is given


def cpu_options(settings: EngineSettings) -> dict[str, Any]:
    """Arguments of ``LLM`` for an engine on a CPU.

    Raises:
        UserError: the model has layers that vLLM does not compute rightly on a CPU.
    """
    _refuse_states(model_config(Path(settings.model)))
    return {
        "max_num_seqs": settings.batch,
        # A seeded request crashes the CPU build when its prompt is prefilled in chunks.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings.max_model_len, min(8192, settings.max_model_len * settings.batch)),
        "kv_cache_memory_bytes": CPU_KV_CACHE if settings.kv_cache_gib is None else int(settings.kv_cache_gib * GIB),
        "block_size": CPU_BLOCK,
        "enable_prefix_caching": True,
    }


def _refuse_states(config: dict[str, Any]) -> None:
    """Refuse models with layers that have states instead of keys and values (Qwen3.5, LFM2): on a CPU vLLM does not load them, or
    gives other log-probabilities than transformers does (tried with LFM2)."""
    config = config.get("text_config") or config
    kinds = {kind for kind in config.get("layer_types") or () if kind not in ATTENTION}
    if "full_attn_idxs" in config:
        kinds.add("conv")
    if kinds:
        raise UserError(
            f"rollout.engine: vLLM on a CPU does not support layers of the kind {', '.join(sorted(kinds))}, "
            "which this model has; use rollout.engine=hf"
        )


def gpu_options(settings: EngineSettings, card: Card) -> dict[str, Any]:
    """Arguments of ``LLM`` for an engine on ``tensor_parallel_size`` GPUs.

    Raises:
        UserError: the card, shared with the learner, has no room for a key-value cache; the model's heads are not known.
    """
    dtype_bytes = 4 if settings.dtype == "fp32" else 2
    folder, size = Path(settings.model), settings.tensor_parallel_size
    sizes = card_sizes(
        card,
        weight_bytes=parameters(folder) * dtype_bytes // size,
        token_bytes=_token_bytes(folder, dtype_bytes, size),
        max_model_len=settings.max_model_len,
        share=settings.gpu_memory_utilization,
        kv_cache_gib=settings.kv_cache_gib,
        num_seqs=settings.max_num_seqs,
    )
    options: dict[str, Any] = {
        "max_num_seqs": sizes.num_seqs,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": size,
        # The actor owns all GPUs of its engine on one node, so its child processes use them.
        "distributed_executor_backend": "mp" if size > 1 else "uni",
        "enable_sleep_mode": settings.sleep,
        "enable_prefix_caching": True,
    }
    if sizes.kv_cache_bytes is not None:
        # vLLM uses this size, but first checks that its share of the card is free, and the learner may use most of the card.
        options |= {"kv_cache_memory_bytes": sizes.kv_cache_bytes, "gpu_memory_utilization": MIN_MEMORY_CHECK}
    return options


def _token_bytes(folder: Path, dtype_bytes: int, tensor_parallel_size: int) -> int:
    try:
        return kv_bytes_per_token(model_config(folder), dtype_bytes, tensor_parallel_size)
    except KeyError as error:
        raise UserError(f"model: {folder / 'config.json'} has no {error}, so its key-value cache has no known size") from None
