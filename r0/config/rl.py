"""The configurations of reinforcement learning: one a stage. They differ in tasks, answers and rewards only."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from r0.config.cards import check_cards
from r0.config.commands import RunKeys
from r0.config.lists import ListKeys, ListRewardSection
from r0.config.sections import (
    CheckpointSection,
    Count,
    EvalSection,
    GRPOSection,
    LearnerSection,
    NonNegative,
    Positive,
    PPOSection,
    RewardBase,
    RewardSection,
    RolloutSection,
    Section,
    SyncSection,
    key,
    rewriting,
)
from r0.records import Form


def _choose(values: dict[str, Any]) -> None:
    """``algo`` follows from the only section given."""
    if values.get("algo") is None:
        sections = [name for name in ("ppo", "grpo") if values.get(name) is not None]
        if len(sections) == 2:
            raise ValueError("both ppo: and grpo: are given; choose with algo=ppo or algo=grpo")
        values["algo"] = sections[0] if sections else "ppo"
    if values["algo"] in ("ppo", "grpo") and values.get(values["algo"]) is None:
        values[values["algo"]] = {}


class RLConfig(RunKeys):
    """RL with a rule reward: what every stage has."""

    algo: Literal["ppo", "grpo"] | None = key(None, "empty: the only one of the sections ppo: and grpo: that is given")
    kl_coef: NonNegative = key(0.0, "weight of the KL to the reference model; 0 = no reference model is loaded")
    max_new_tokens: Count = key(256, "token limit of a completion")
    temperature: Positive = key(1.0, "sampling temperature; all log-probabilities are of this distribution")
    top_p: float = key(1.0, "must be 1: cutting the distribution while training biases the ratio")
    reward: RewardBase = key(..., "the rule reward")
    ppo: PPOSection | None = key(None, "PPO's own keys")
    grpo: GRPOSection | None = key(None, "GRPO's own keys")
    learner: LearnerSection = key(LearnerSection(), "DeepSpeed ranks")
    rollout: RolloutSection = key(RolloutSection(), "sampling workers")
    sync: SyncSection = key(SyncSection(), "weight sync")
    eval: EvalSection = key(EvalSection(), "held-out evaluation")
    checkpoint: CheckpointSection = key(CheckpointSection(), "checkpoints")

    _resolve = rewriting(_choose)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_p != 1.0:
            raise ValueError(
                f"top_p: {self.top_p} is refused in training, because completions cut to the top of the distribution "
                "no longer have the probabilities the loss assumes (the ratio is biased); use top_p=1"
            )
        group = self.grpo if self.algo == "grpo" else None
        if group is not None and group.num_generations < 2 and group.advantage != "reinforce_pp":
            raise ValueError(
                f"grpo.num_generations: a group of 1 has no spread, so advantage={group.advantage} is always 0; "
                "use at least 2, or grpo.advantage=reinforce_pp"
            )
        if self.batch_size % self.mini_batches:
            split = f"{self.algo}.num_mini_batches={self.mini_batches}"
            raise ValueError(f"batch_size: {self.batch_size} is not a multiple of {split}")
        if self.ray.inline and (self.learner.ranks > 1 or self.rollout.workers > 1):
            raise ValueError("ray.inline: runs one learner and one engine; set learner.ranks=1 and rollout.workers=1")
        check_cards(self)
        if self.min_label is not None and self.max_label is not None and self.min_label >= self.max_label:
            raise ValueError(f"min_label: {self.min_label} is not below max_label={self.max_label}")
        return self

    @property
    def section(self) -> PPOSection | GRPOSection:
        """The section that ``algo`` chose."""
        chosen = self.ppo if self.algo == "ppo" else self.grpo
        if chosen is None:  # filled by _resolve
            raise RuntimeError(f"no section for algo={self.algo}")
        return chosen

    @property
    def mini_batches(self) -> int:
        """Optimizer updates a pass."""
        return self.section.num_mini_batches

    @property
    def samples_per_prompt(self) -> int:
        """Completions sampled for each prompt: ``num_generations`` in GRPO, 1 in PPO."""
        return self.section.num_generations if isinstance(self.section, GRPOSection) else 1


def _agree(values: dict[str, Any]) -> None:
    """Keys given once hold at both places."""
    _same(values, "max_think_tokens", 200)
    _same(values, "missing_eos_penalty", 0.0)


def _same(values: dict[str, Any], name: str, default: float) -> None:
    """Make ``values[name]`` and ``values["reward"][name]`` one key."""
    reward = values.get("reward")
    if isinstance(reward, Section):
        reward = reward.model_dump()
    if reward is not None and not isinstance(reward, dict):
        return  # the section's own validation says what is wrong
    reward = dict(reward or {})
    top, inner = values.get(name), reward.get(name)
    if top is not None and inner is not None and top != inner:
        raise ValueError(f"{name}: {top} at the top level and {inner} in reward: disagree; give it once, it holds for both")
    value = top if top is not None else inner if inner is not None else default
    values[name] = value
    reward[name] = value
    values["reward"] = reward


class StageAConfig(RLConfig):
    """RL with a rule reward: one document, think, then yes or no."""

    max_think_tokens: Count | None = key(None, "as reward.max_think_tokens; given once, it holds for both (default 200)")
    missing_eos_penalty: NonNegative | None = key(None, "as reward.missing_eos_penalty; given once, holds for both (default 0)")
    reward: RewardSection = key(RewardSection(), "the rule reward")

    _once = rewriting(_agree)

    @model_validator(mode="after")
    def _check_think_tokens(self) -> Self:
        least, most = self.reward.min_think_tokens, self.reward.max_think_tokens
        if most is not None and least > most:
            raise ValueError(f"reward.min_think_tokens: {least} is above max_think_tokens={most}")
        return self


class StageBConfig(ListKeys, RLConfig):
    """RL with a rule reward: a list of documents, think, then an order, a pick or scores."""

    answer: Literal["permutation", "pick", "scores"] = key("permutation", "what the model answers: an order, the best, or scores")
    max_prompt_tokens: Count = key(8192, "prompt budget of a whole list; longer lists have every document cut further")
    max_new_tokens: Count = key(1024, "token limit of a completion")
    system_prompt: str = key("", "system message; empty: r0's own for the answer form")
    reward: ListRewardSection = key(ListRewardSection(), "the rule reward")

    @model_validator(mode="after")
    def _check_answer(self) -> Self:
        if self.reward.js_weight and self.answer != "scores":
            weight = f"js_weight={self.reward.js_weight:g} (of reward.preset={self.reward.preset})"
            raise ValueError(f"reward.{weight} compares scores, and answer={self.answer} has none; use answer=scores")
        return self

    @property
    def form(self) -> Form:
        """What the model answers."""
        return Form(self.answer)


class WarmStartSection(Section):
    """The demo's supervised start, from the built-in task's warm-start log."""

    rows: Count = key(1024, "rows of the warm-start log")
    epochs: Positive = key(1.0, "passes over them")
    batch_size: Count = key(32, "rows an update sees")
    learning_rate: Positive = key(1e-3, "peak learning rate")


def _completions(values: dict[str, Any]) -> None:
    """PPO samples one completion a prompt and GRPO several: both get as many completions an update."""
    completions, grpo = values.get("completions", 128), values.get("grpo") or {}
    samples = grpo.get("num_generations", 8) if values.get("algo") != "ppo" and isinstance(grpo, dict) else 1
    if isinstance(completions, int) and isinstance(samples, int) and samples > 0:  # else validation says what is wrong
        values.setdefault("batch_size", max(1, completions // samples))


class DemoConfig(StageAConfig):
    """Warm start, RL and probes on the built-in task, from the embedded r0-tiny, on two cores."""

    model: str = key("r0-tiny", "model to start from; r0-tiny is the embedded one")
    completions: Count = key(128, "completions an update sees; batch_size, if not given, is this / samples a prompt")
    warm_start: WarmStartSection = key(WarmStartSection(), "the supervised start")

    _batch = rewriting(_completions)
