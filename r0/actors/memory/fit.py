"""Whether an RL run fits its cards: the bytes of every role in each phase of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r0.actors.memory.engine import SLEEPING_BYTES, EngineBytes, engine_bytes
from r0.actors.memory.learner import RankBytes, learner_rank, uses_bf16
from r0.actors.memory.shape import ModelShape
from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.sizes import SLACK
from r0.config import RLConfig
from r0.errors import UserError


@dataclass(frozen=True)
class Phase:
    """A phase of a step on one card: the bytes it needs, and the limit."""

    name: str
    bytes: int
    limit: int

    @property
    def excess(self) -> int:
        """Bytes above the limit; negative where it fits."""
        return self.bytes - self.limit


@dataclass(frozen=True)
class Fit:
    """A run on cards of ``card`` bytes.

    ``engine`` is None if the engine cannot start; ``refusal`` is the reason. ``lower_bound`` is what some card needs in any case,
    without activations and with the smallest key-value cache.
    """

    card: int
    shared: bool
    checkpointing: bool
    learner: RankBytes
    engine: EngineBytes | None
    phases: tuple[Phase, ...]
    lower_bound: int
    refusal: str = ""

    @property
    def fullest(self) -> Phase:
        """The phase with the largest ``excess``."""
        return max(self.phases, key=lambda phase: phase.excess)

    @property
    def fits(self) -> bool:
        """Whether every phase is within its limit."""
        return not self.refusal and self.fullest.excess <= 0

    @property
    def impossible(self) -> bool:
        """Whether the run cannot fit even if the estimates are too high."""
        return self.lower_bound > self.card


def fit(config: RLConfig, model_config: Mapping[str, Any], shape: ModelShape, card: int) -> Fit:
    """Memory of a run on cards of ``card`` bytes.

    Args:
        config: of the run; ``gradient_checkpointing=auto`` is resolved as the learner does.
        model_config: the model's ``config.json``.
        shape: of the model.
        card: bytes of a card.
    """
    settings = EngineSettings.of(config, "", gpus=True)
    bf16 = uses_bf16(config.rollout.dtype, gpus=True)
    length = config.max_prompt_tokens + config.max_new_tokens
    checkpointing = choose_checkpointing(config, shape, card)
    rank = learner_rank(config, shape, checkpointing)
    on_card = config.learns and config.learner.gpus != 0
    learning = rank.peak if on_card else 0
    share = settings.gpu_memory_utilization
    engine, refusal = None, ""
    free = card - rank.idle if settings.shared_card else None
    usable = int(card * (1 - SLACK))  # the rest is lost to fragmentation
    try:
        engine = engine_bytes(config.rollout, model_config, shape, length, card, free, share, bf16)
    except UserError as error:
        refusal = str(error)
    if config.rollout.gpus == 0 or config.rollout.engine == "hf" or not config.samples:
        engine, refusal = None, ""
    awake, least = (engine.total, engine.minimum) if engine else (0, 0)
    if not settings.shared_card:
        phases = [Phase("learning", learning, usable)] if config.learns or not engine else []
        if engine:  # vLLM always takes its share
            phases.append(Phase("sampling", max(engine.minimum, awake), max(usable, int(share * card))))
        return Fit(card, False, checkpointing, rank, engine, tuple(phases), max(rank.static if on_card else 0, least), refusal)
    sleeping = SLEEPING_BYTES if settings.sleep else awake
    phases = [
        Phase("learning", learning + sleeping, usable),
        Phase("sending weights", rank.idle + rank.sync + (engine.weights + engine.reserve if engine else 0), usable),
        Phase("sampling", rank.idle + awake, card - int(SLACK * max(0, card - rank.idle))),  # as ``rollout.sizes`` leaves free
    ]
    return Fit(card, True, checkpointing, rank, engine, tuple(phases), rank.static, refusal)


def choose_checkpointing(config: RLConfig, shape: ModelShape, free: int) -> bool:
    """Whether activations are recomputed in the backward pass; with ``auto``, if they do not fit otherwise.

    Args:
        config: of the run.
        shape: of its model.
        free: free bytes of the learner's card before the learner loads.
    """
    if config.gradient_checkpointing != "auto":
        return config.gradient_checkpointing
    settings = EngineSettings.of(config, "", gpus=True)
    if settings.shared_card:
        free -= SLEEPING_BYTES if settings.sleep else int(settings.gpu_memory_utilization * free)
    return learner_rank(config, shape, checkpointing=False).peak > free * (1 - SLACK)
