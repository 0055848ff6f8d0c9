"""What a vLLM engine takes of each of its cards: the sizes that ``rollout.sizes`` chooses when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r0.actors.memory.shape import ModelShape
from r0.actors.rollout.sizes import ENGINE_RESERVE, GIB, MIN_NUM_SEQS, Card, card_sizes, kv_bytes_per_token
from r0.config import RolloutSection

ASLEEP = int(1.5 * GIB)  # of a sleeping engine: CUDA context and graphs; what others report, not measured here


@dataclass(frozen=True)
class EngineBytes:
    """Bytes on each card of one engine, and how many completions of full length its cache holds.

    ``reserve`` is for activations, CUDA graphs and the buffers of a weight sync.
    """

    weights: int
    cache: int
    reserve: int
    token: int  # of the cache
    length: int  # of prompt and completion, in tokens
    num_seqs: int  # completions at one time

    @property
    def total(self) -> int:
        """Of a card, while awake."""
        return self.weights + self.cache + self.reserve

    @property
    def least(self) -> int:
        """With a cache for one completion only: less does not start."""
        return self.weights + self.reserve + self.token * self.length

    @property
    def held(self) -> int:
        """Completions of full length that the cache holds."""
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
        free: what the learner leaves of a card that both share; None: the engine has its cards alone.
        share: of the card that the engine may take; None: ``rollout.gpu_memory_utilization``.
        bf16: weights and cache in bf16, else in float32.

    Raises:
        UserError: on a shared card there is no room for a single completion.
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
