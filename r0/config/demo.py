"""Configuration of the demo: a warm start, then stage A, on the built-in task."""

from __future__ import annotations

from typing import Any, Self

from pydantic import model_validator

from r0.config.rl import StageAConfig, algo_of
from r0.config.sections import Count, Positive, Section, key, rewriting
from r0.config.types import Epochs, ModelText


class WarmStartSection(Section):
    """The demo's supervised warm start on the built-in task's warm-start log."""

    rows: Count = key(1024, "rows of the warm-start log")
    epochs: Epochs = key(1.0, "passes over the rows")
    batch_size: Count = key(32, "rows per update")
    learning_rate: Positive = key(1e-3, "peak learning rate")


def _completions(values: dict[str, Any]) -> None:
    """Derive ``batch_size``, so that PPO (one completion per prompt) and GRPO (several) have equally many per update."""
    completions, grpo = values.get("completions", 128), values.get("grpo") or {}
    grpo = grpo.model_dump() if isinstance(grpo, Section) else grpo
    samples = grpo.get("num_generations", 8) if algo_of(values) == "grpo" and isinstance(grpo, dict) else 1
    if isinstance(completions, int) and isinstance(samples, int) and samples > 0:  # else validation says what is wrong
        values.setdefault("batch_size", max(1, completions // samples))


class DemoConfig(StageAConfig):
    """Run a warm start, RL and probes on the built-in task with the embedded r0-tiny, on two CPU cores."""

    model: ModelText = key("r0-tiny", "model to start from; r0-tiny is the embedded one")
    completions: Count = key(128, "completions per update; sets batch_size to this / samples per prompt if that is not given")
    warm_start: WarmStartSection = key(WarmStartSection(), "the supervised warm start")

    _batch = rewriting(_completions)

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if not (self.samples and self.learns):
            name = "rollouts_only" if self.samples else "rollouts"
            raise ValueError(f"{name}: the demo samples and trains; use stage_a with the warm start's model")
        return self
