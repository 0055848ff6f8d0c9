"""Memory of a vLLM engine on each of its cards, with the sizes that ``rollout.sizes`` chooses at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r0.actors.memory.shape import ModelShape
from r0.actors.rollout.sizes import ENGINE_RESERVE, GIB, MIN_NUM_SEQS, Card, card_sizes, kv_bytes_per_token
from r0.config import RolloutSection

SLEEPING_BYTES = int(1.5 * GIB)  # CUDA context and graphs; reported by others, not measured here


@dataclass(frozen=True)
class EngineBytes:
    """Bytes of one engine on each of its cards.

    ``reserve`` is for activations, CUDA graphs and the buffers of a weight sync.
    """

    weights: int
    cache: int
    reserve: int
    token: int  # cache bytes per token
    length: int  # prompt and completion, in tokens
    num_seqs: int  # concurrent completions

    @property
    def total(self) -> int:
        """Bytes on a card while the engine is awake."""
        return self.weights + self.cache + self.reserve

    @property
    def minimum(self) -> int:
        """Bytes with a cache for a single completion; with less, the engine does not start."""
        return self.weights + self.reserve + self.token * self.length

    @property
    def capacity(self) -> int:
        """Completions of maximum length that fit the cache."""
        return self.cache // (self.token * self.length)


def engine_bytes(
    rollout: RolloutSection,
    model_config: Mapping[str, Any],
    shape: ModelShape,
    length: int,
    card: int,
    free: int | None = None,
    share: float | None = None,
    bf16: bool = True,
) -> EngineBytes:
    """Bytes of an engine on a GPU.

    Args:
        rollout: its section.
        model_config, shape: of its model.
        length: prompt and completion together, in tokens.
        card: bytes of a card.
        free: bytes that the learner leaves of a shared card; None: the engine has its cards alone.
        share: of the card that the engine may use; None: ``rollout.gpu_memory_utilization``.
        bf16: weights and cache in bf16, else in float32.

    Raises:
        UserError: a shared card has no room for a single completion.
    """
    size, width = rollout.tensor_parallel_size, 2 if bf16 else 4
    weights, token = shape.weights * width // size, kv_bytes_per_token(model_config, width, size)
    given = None if rollout.kv_cache_gib == "auto" else rollout.kv_cache_gib
    seqs = None if rollout.max_num_seqs == "auto" else rollout.max_num_seqs
    share = rollout.gpu_memory_utilization if share is None else share
    sizes = card_sizes(Card(card, free), weights, token, length, share, given, seqs)
    cache = sizes.kv_cache_bytes
    if cache is None:
        cache = max(0, int(share * card) - weights - ENGINE_RESERVE)
    return EngineBytes(weights, cache, ENGINE_RESERVE, token, length, sizes.num_seqs or MIN_NUM_SEQS)
