"""The size of an engine's key-value cache, and the number of completions that fit it. Pure arithmetic.

Sizes are in bytes unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r0.errors import UserError

GIB = 2**30
CPU_KV_CACHE = GIB  # of an engine on a CPU
CPU_NUM_SEQS = 128  # concurrent completions on a CPU, and in engines without vLLM
MIN_NUM_SEQS, MAX_NUM_SEQS = 128, 1024  # of the automatic choice on a GPU; vLLM's own default on a large card is 1,024
STEP_NUM_SEQS = 64  # the automatic choice is a multiple of it
ENGINE_RESERVE = 4 * GIB  # an engine's memory beside weights and cache: activations, CUDA graphs, buffers of a weight sync
SLACK = 0.05  # share of a card's free memory that stays free, for fragmentation and growth of the learner's process


@dataclass(frozen=True)
class Card:
    """A GPU's memory in bytes. ``free`` is set if the learner is on the same card."""

    total: int
    free: int | None = None


@dataclass(frozen=True)
class CardSizes:
    """Concurrent completions of an engine, and the size of its cache (None: vLLM uses what is left of its share)."""

    num_seqs: int
    kv_cache_bytes: int | None


def kv_bytes_per_token(model_config: Mapping[str, Any], dtype_bytes: int, tensor_parallel_size: int = 1) -> int:
    """Bytes per token in the key-value cache of one card.

    Args:
        model_config: the model's ``config.json``.
        dtype_bytes: bytes per cached element, 2 for bf16.
        tensor_parallel_size: cards that share the key-value heads; a card holds at least one head.

    Raises:
        KeyError: the configuration is not a transformer's.
    """
    shape = model_config.get("text_config") or model_config
    heads = shape["num_attention_heads"]
    kv_heads = shape.get("num_key_value_heads") or heads
    head_dim = shape.get("head_dim") or shape["hidden_size"] // heads
    return 2 * shape["num_hidden_layers"] * max(1, kv_heads // tensor_parallel_size) * head_dim * dtype_bytes


def auto_num_seqs(kv_cache_bytes: int, token_bytes: int, max_model_len: int) -> int:
    """Concurrent completions of an engine on a GPU: as many as its cache holds at maximum length.

    Args:
        kv_cache_bytes: of one card.
        token_bytes: of one token on that card (``kv_bytes_per_token``).
        max_model_len: prompt and completion together, in tokens.

    Returns:
        A multiple of 64 from 128 to 1,024. If the cache is too small for 128, completions wait for space.
    """
    held = kv_cache_bytes // (token_bytes * max_model_len)
    return min(MAX_NUM_SEQS, max(MIN_NUM_SEQS, held // STEP_NUM_SEQS * STEP_NUM_SEQS))


def upper_num_seqs(max_num_seqs: int | str, gpus: bool) -> int:
    """An upper bound of an engine's concurrent completions, for the driver: as configured, or the maximum of ``auto``."""
    if isinstance(max_num_seqs, int):
        return max_num_seqs
    return MAX_NUM_SEQS if gpus else CPU_NUM_SEQS


def auto_kv_cache(free_bytes: int, weight_bytes: int, token_bytes: int, max_model_len: int, num_seqs: int | None = None) -> int:
    """Size of the key-value cache of an engine that shares its card with the learner.

    Args:
        free_bytes: memory of the card that the engine may use.
        weight_bytes: of the engine's copy of the model.
        token_bytes: of one token (``kv_bytes_per_token``).
        max_model_len: prompt and completion together, in tokens.
        num_seqs: concurrent completions; None: the maximum of ``auto_num_seqs``.

    Returns:
        What is left after weights and reserve, at most what ``num_seqs`` completions of maximum length need. If it is less than
        one completion needs (it may be negative), the engine does not fit.
    """
    room = int(free_bytes * (1 - SLACK)) - weight_bytes - ENGINE_RESERVE
    return min(room, token_bytes * max_model_len * (num_seqs or MAX_NUM_SEQS))


def card_sizes(
    card: Card,
    weight_bytes: int,
    token_bytes: int,
    max_model_len: int,
    share: float,
    kv_cache_gib: float | None = None,
    num_seqs: int | None = None,
) -> CardSizes:
    """The sizes of an engine on a GPU.

    Args:
        card: of the engine, or each of its cards.
        weight_bytes, token_bytes, max_model_len: see ``auto_kv_cache``.
        share: maximum share of the card that the engine may use.
        kv_cache_gib, num_seqs: as configured; None: chosen here.

    Raises:
        UserError: beside the learner there is no room for a single completion.
    """
    most = int(share * card.total)
    if kv_cache_gib is not None:
        given: int | None = int(kv_cache_gib * GIB)
    elif card.free is None:
        given = None
    else:
        given = auto_kv_cache(min(card.free, most), weight_bytes, token_bytes, max_model_len, num_seqs)
        if given < token_bytes * max_model_len:
            raise UserError(
                f"rollout.kv_cache_gib: beside the learner the engine may take {min(card.free, most) / GIB:.1f} GiB of the card, "
                f"its weights and buffers take {(weight_bytes + ENGINE_RESERVE) / GIB:.1f} GiB, and no completion fits besides; "
                "use learner.lora.r or learner.zero_stage=2 for a smaller learner, a smaller model, or two cards"
            )
    cache = most - weight_bytes - ENGINE_RESERVE if given is None else given
    return CardSizes(num_seqs or auto_num_seqs(max(0, cache), token_bytes, max_model_len), given)
