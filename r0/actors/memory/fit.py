"""Whether a run of reinforcement learning fits its cards: bytes of every role, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r0.actors.memory.engine import ASLEEP, EngineBytes, engine_bytes
from r0.actors.memory.learner import RankBytes, learner_rank, uses_bf16
from r0.actors.memory.shape import ModelShape
from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.sizes import SLACK
from r0.config import RLConfig
from r0.errors import UserError


@dataclass(frozen=True)
class Phase:
    """What happens on a card at one time, the bytes that it takes, and those that it may take."""

    name: str
    bytes: int
    limit: int

    @property
    def over(self) -> int:
        """Bytes above the limit; negative where it fits."""
        return self.bytes - self.limit


@dataclass(frozen=True)
class Fit:
    """A run on cards of ``card`` bytes.

    ``engine`` is None where ``refusal`` says why it cannot start. ``certain`` are bytes that some card holds in any case, without
    activations and with the smallest key-value cache.
    """

    card: int
    shared: bool
    checkpointing: bool
    learner: RankBytes
    engine: EngineBytes | None
    phases: tuple[Phase, ...]
    certain: int
    refusal: str = ""

    @property
    def fullest(self) -> Phase:
        """The phase that is nearest to its limit, or farthest above it."""
        return max(self.phases, key=lambda phase: phase.over)

    @property
    def fits(self) -> bool:
        """Whether every phase fits, with the share of the card that stays free."""
        return not self.refusal and self.fullest.over <= 0

    @property
    def impossible(self) -> bool:
        """Whether it cannot fit even if every estimate is too high."""
        return self.certain > self.card


def fit(config: RLConfig, model_config: Mapping[str, Any], shape: ModelShape, card: int) -> Fit:
    """What a run takes of cards of ``card`` bytes.

    Args:
        config: of the run; ``gradient_checkpointing=auto`` is decided as the learner will.
        model_config: the model's ``config.json``.
        shape: of the model.
        card: bytes of a card.
    """
    settings = EngineSettings.of(config, "", gpus=True)
    bf16 = uses_bf16(config.rollout.dtype, gpus=True)
    length = config.max_prompt_tokens + config.max_new_tokens
    checkpointing = choose_checkpointing(config, shape, card)
    rank = learner_rank(config, shape, checkpointing)
    on_card = config.learner.gpus != 0
    learning = rank.peak if on_card else 0
    share = settings.gpu_memory_utilization
    engine, refusal = None, ""
    free = card - rank.rest if settings.shared_card else None
    usable = int(card * (1 - SLACK))  # allocations do not fit together without gaps
    try:
        engine = engine_bytes(config.rollout, model_config, shape, length, card, free, share, bf16)
    except UserError as error:
        refusal = str(error)
    if config.rollout.gpus == 0 or config.rollout.engine == "hf":
        engine, refusal = None, ""
    awake, least = (engine.total, engine.least) if engine else (0, 0)
    if not settings.shared_card:
        phases = [Phase("learning", learning, usable)]
        if engine:  # vLLM takes its share whatever happens
            phases.append(Phase("sampling", max(engine.least, awake), max(usable, int(share * card))))
        return Fit(card, False, checkpointing, rank, engine, tuple(phases), max(rank.static if on_card else 0, least), refusal)
    sleeping = ASLEEP if settings.sleep else awake
    phases = [
        Phase("learning", learning + sleeping, usable),
        Phase("sending weights", rank.rest + rank.sync + (engine.weights + engine.reserve if engine else 0), usable),
        Phase("sampling", rank.rest + awake, card - int(SLACK * max(0, card - rank.rest))),  # as ``rollout.sizes`` leaves free
    ]
    return Fit(card, True, checkpointing, rank, engine, tuple(phases), rank.static, refusal)


def choose_checkpointing(config: RLConfig, shape: ModelShape, free: int) -> bool:
    """Whether activations are computed again in the backward pass; ``auto``: where they do not fit.

    Args:
        config: of the run.
        shape: of its model.
        free: bytes of the learner's card before the learner loads.
    """
    if config.gradient_checkpointing != "auto":
        return config.gradient_checkpointing
    settings = EngineSettings.of(config, "", gpus=True)
    if settings.shared_card:
        free -= ASLEEP if settings.sleep else int(settings.gpu_memory_utilization * free)
    return learner_rank(config, shape, checkpointing=False).peak > free * (1 - SLACK)
