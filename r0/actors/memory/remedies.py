"""Changes of keys that help a run fit its cards, and the memory that each saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from r0.actors.memory.fit import Fit, fit
from r0.actors.memory.shape import ModelShape
from r0.config import RLConfig
from r0.errors import UserError

Change = dict[str, Any]  # dotted key → value


@dataclass(frozen=True)
class Remedy:
    """A change of keys, the bytes ``saved`` in the fullest phase, and whether the run then fits."""

    keys: str  # as written on a command line
    saved: int
    fits: bool


def remedies(config: RLConfig, model_config: Mapping[str, Any], shape: ModelShape, now: Fit) -> list[Remedy]:
    """Changes that help, largest saving first. If none is enough alone, the last one combines all of them."""
    found: list[tuple[Remedy, Change]] = []
    for change in _changes(config, now):
        remedy = _remedy(config, model_config, shape, now, change)
        if remedy is not None:
            found.append((remedy, change))
    found.sort(key=lambda pair: -pair[0].saved)
    listed = [remedy for remedy, _ in found]
    if len(found) > 1 and not any(remedy.fits for remedy in listed):
        every: Change = {}
        for _, change in reversed(found):
            every |= change
        together = _remedy(config, model_config, shape, now, every)
        if together is not None and together.fits:
            listed.append(together)
    return listed


def _remedy(config: RLConfig, model_config: Mapping[str, Any], shape: ModelShape, now: Fit, change: Change) -> Remedy | None:
    """The effect of a change; None if it has none or is not allowed with the other keys."""
    try:
        then = fit(with_keys(config, change), model_config, shape, now.card)
    except (ValueError, UserError):
        return None
    before, after = now.fullest.excess, then.fullest.excess
    if not then.fits and (before <= after or then.refusal):
        return None
    keys = " ".join(f"{name}={_text(value)}" for name, value in change.items())
    return Remedy(keys, max(0, before - after), then.fits)


def _changes(config: RLConfig, now: Fit) -> Iterator[Change]:
    learner, rollout = config.learner, config.rollout
    if not now.checkpointing:
        yield {"gradient_checkpointing": True}
    least = config.max_prompt_tokens + config.max_new_tokens
    if learner.row_tokens > least:
        yield {"learner.row_tokens": max(least, learner.row_tokens // 2)}
    if learner.logprob_chunk > 256:
        yield {"learner.logprob_chunk": 256}
    if not learner.lora.r:
        yield {"learner.lora.r": 16}
    if learner.zero_stage < 2:
        yield {"learner.zero_stage": 2} if now.shared else {"learner.zero_stage": 2, "learner.ranks": 2 * learner.ranks}
    elif learner.ranks > 1:
        yield {"learner.zero_stage": 3}
    if not learner.offload_optimizer:
        yield {"learner.zero_stage": max(2, learner.zero_stage), "learner.offload_optimizer": True}
    if config.algo == "ppo":
        yield {"algo": "grpo"}
    if now.learner.reference:
        yield {"kl_coef": 0.0}
    if now.shared:
        yield {"learner.gpus": None, "rollout.gpus": None}
        if rollout.kv_cache_gib != "auto":
            yield {"rollout.kv_cache_gib": "auto"}
        if not rollout.sleep:
            yield {"rollout.sleep": True}
    elif now.fullest.name == "sampling":
        yield {"rollout.tensor_parallel_size": 2 * rollout.tensor_parallel_size}
    if learner.dtype == "fp32":
        yield {"learner.dtype": "auto"}


def with_keys(config: RLConfig, change: Change) -> RLConfig:
    """The configuration with changed values of some keys.

    Raises:
        ValueError: the values are not allowed together.
    """
    values = config.model_dump()
    for path, value in change.items():
        *sections, name = path.split(".")
        inner = values
        for section in sections:
            inner = inner[section]
        inner[name] = value
    return type(config).model_validate(values)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
