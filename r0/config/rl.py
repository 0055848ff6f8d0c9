"""Configurations of reinforcement learning, one per stage; stages differ only in tasks, answers and rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from r0.config.algorithms import GRPOSection, PPOSection
from r0.config.cards import check_ahead, check_cards
from r0.config.commands import RunKeys
from r0.config.lists import ListKeys, ListRewardSection
from r0.config.sections import (
    CheckpointSection,
    Count,
    EvalSection,
    LearnerSection,
    NonNegative,
    Positive,
    RewardBase,
    RewardSection,
    RolloutSection,
    Section,
    SyncSection,
    key,
    rewriting,
)
from r0.config.types import PathText, Profile
from r0.records import Form

TIS_CAP = 3.0  # of PPO with rollouts that are one version old: GRPO's default


def algo_of(values: dict[str, Any]) -> Any:
    """The given ``algo``, or that of the only section given; PPO if none is."""
    if values.get("algo") is not None:
        return values["algo"]
    sections = [name for name in ("ppo", "grpo") if values.get(name) is not None]
    if len(sections) == 2:
        raise ValueError("both ppo: and grpo: are given; choose with algo=ppo or algo=grpo")
    return sections[0] if sections else "ppo"


def _choose(values: dict[str, Any]) -> None:
    """Fill ``algo`` and the section of its name."""
    values["algo"] = algo_of(values)
    if values["algo"] in ("ppo", "grpo") and values.get(values["algo"]) is None:
        values[values["algo"]] = {}
    _cap_of_ppo(values)


def _cap_of_ppo(values: dict[str, Any]) -> None:
    """Fill ``ppo.tis_cap``, so that the resolved configuration shows what is used."""
    ppo, sync = values.get("ppo"), values.get("sync")
    ppo = ppo.model_dump() if isinstance(ppo, Section) else ppo
    sync = sync.model_dump() if isinstance(sync, Section) else sync or {}
    if isinstance(ppo, dict) and isinstance(sync, dict) and ppo.get("tis_cap") is None:
        values["ppo"] = {**ppo, "tis_cap": TIS_CAP if sync.get("max_staleness") == 1 else 0.0}


class RLConfig(RunKeys):
    """Keys of RL with a rule reward, shared by all stages."""

    ALIASES: ClassVar[Mapping[str, str]] = {"profile.steps": "profile"}

    algo: Literal["ppo", "grpo"] | None = key(None, "RL algorithm; empty: the one whose section is given, ppo if none is")
    kl_coef: NonNegative = key(0.0, "weight of the KL to the reference model; 0: no reference model is loaded")
    max_new_tokens: Count = key(256, "maximum completion length in tokens")
    temperature: Positive = key(1.0, "sampling temperature; all log-probabilities are of this distribution")
    on_nan: Literal["stop", "skip"] = key(
        "stop",
        "if a loss or gradient is NaN or infinite: stop the run, or skip the update and go on (in at most 3 steps in a row); "
        "either way no weight changes, and the batch is kept in OUTPUT/bad_batches",
    )
    top_p: float = key(1.0, "must be 1: truncating the distribution in training biases the probability ratio")
    rollouts: PathText | None = key(
        None, "run directory whose stored rollouts are learned from, step by step; no engine is loaded, nothing is evaluated"
    )
    rollouts_only: bool = key(
        False, "sample and judge max_steps steps (0: as many as epochs give) with the starting model, and train nothing"
    )
    reward: RewardBase = key(..., "the rule reward")
    ppo: PPOSection | None = key(None, "PPO")
    grpo: GRPOSection | None = key(None, "GRPO and its variants")
    learner: LearnerSection = key(LearnerSection(), "DeepSpeed ranks")
    rollout: RolloutSection = key(RolloutSection(), "sampling workers")
    sync: SyncSection = key(SyncSection(), "weight sync")
    profile: Profile = key(
        False,
        "write OUTPUT/profile: a Chrome trace of all roles, and a table of where a step's seconds go; true: of the third to the "
        "fifth step after the start; or of some steps, such as 5-7",
    )
    eval: EvalSection = key(EvalSection(), "held-out evaluation")
    checkpoint: CheckpointSection = key(CheckpointSection(), "checkpoints")

    _resolve = rewriting(_choose)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_p != 1.0:
            raise ValueError(
                f"top_p: {self.top_p} would bias the probability ratio, because the loss assumes samples from the full "
                "distribution; use top_p=1"
            )
        group = self.grpo if self.algo == "grpo" else None
        if group is not None and group.num_generations < 2 and not group.advantage.startswith("reinforce_pp"):
            raise ValueError(
                f"grpo.num_generations: with 1 completion per group advantage={group.advantage} is always 0; "
                "use at least 2, or grpo.advantage=reinforce_pp"
            )
        if group is not None and group.num_generations < 2 and group.refill_rounds:
            raise ValueError(
                "grpo.refill_rounds: with 1 completion per group there is no spread, and every round would be sampled in vain; "
                "use grpo.num_generations of at least 2, or grpo.refill_rounds=0"
            )
        if self.reward.overlong_tokens > self.max_new_tokens:
            raise ValueError(
                f"reward.overlong_tokens: {self.reward.overlong_tokens} is above max_new_tokens={self.max_new_tokens}; lower it"
            )
        if self.batch_size % self.mini_batches:
            split = f"{self.algo}.num_mini_batches={self.mini_batches}"
            raise ValueError(f"batch_size: {self.batch_size} is not a multiple of {split}")
        if self.ray.inline and ((self.learns and self.learner.ranks > 1) or (self.samples and self.rollout.workers > 1)):
            raise ValueError("ray.inline: supports one learner and one engine; set learner.ranks=1 and rollout.workers=1")
        if self.learner.lora.dropout:
            raise ValueError(
                f"learner.lora.dropout: {self.learner.lora.dropout:g} would make the learner's log-probabilities differ from "
                "those of the engines, which sample without dropout; leave it out"
            )
        self._check_halves()
        check_cards(self)
        if self.sync.max_staleness:
            if self.samples and self.learns:
                check_ahead(self)
            if not self.section.tis_cap:
                raise ValueError(
                    f"{self.algo}.tis_cap: 0 leaves rollouts uncorrected that sync.max_staleness=1 takes from older weights; "
                    f"use {self.algo}.tis_cap={TIS_CAP:g}, or sync.max_staleness=0"
                )
        if self.min_label is not None and self.max_label is not None and self.min_label >= self.max_label:
            raise ValueError(f"min_label: {self.min_label} is not below max_label={self.max_label}; lower it")
        return self

    def _check_halves(self) -> None:
        """Refuse keys that contradict ``rollouts`` and ``rollouts_only``."""
        if not self.samples and not self.learns:
            raise ValueError("rollouts_only: with rollouts= nothing is sampled; leave one of the two out")
        if self.rollouts_only and self.tracking.rollouts_every != 1:
            raise ValueError("tracking.rollouts_every: rollouts_only=true stores the rollouts of every step; leave it out")
        if self.checkpoint.best and not (self.samples and self.learns):
            name = "rollouts_only=true" if self.samples else "rollouts="
            raise ValueError(f"checkpoint.best: with {name} nothing is evaluated; leave it out")

    @property
    def samples(self) -> bool:
        """Whether the run has engines and rewards; without them it learns from recorded ``rollouts``."""
        return self.rollouts is None

    @property
    def learns(self) -> bool:
        """Whether the run has a learner."""
        return not self.rollouts_only

    @property
    def section(self) -> PPOSection | GRPOSection:
        """The section of the chosen ``algo``."""
        chosen = self.ppo if self.algo == "ppo" else self.grpo
        if chosen is None:  # filled by _resolve
            raise RuntimeError(f"no section for algo={self.algo}")
        return chosen

    @property
    def mini_batches(self) -> int:
        """Optimizer updates per pass over a batch."""
        return self.section.num_mini_batches

    @property
    def samples_per_prompt(self) -> int:
        """Completions sampled per prompt: ``num_generations`` in GRPO, 1 in PPO."""
        return self.section.num_generations if isinstance(self.section, GRPOSection) else 1


def _agree(values: dict[str, Any]) -> None:
    """Copy keys given in one place to the other."""
    _same(values, "max_think_tokens", 200)
    _same(values, "missing_eos_penalty", 0.0)


def _same(values: dict[str, Any], name: str, default: float) -> None:
    """Make ``values[name]`` and ``values["reward"][name]`` equal."""
    reward = values.get("reward")
    if isinstance(reward, Section):
        reward = reward.model_dump()
    if reward is not None and not isinstance(reward, dict):
        return  # the section's own validation reports the error
    reward = dict(reward or {})
    top, inner = values.get(name), reward.get(name)
    if top is not None and inner is not None and top != inner:
        raise ValueError(f"{name}: {top} at the top level contradicts {inner} in reward; remove one of the two")
    value = top if top is not None else inner if inner is not None else default
    values[name] = value
    reward[name] = value
    values["reward"] = reward


class StageAConfig(RLConfig):
    """RL with a rule reward on single documents: think, then answer yes or no."""

    # Keys that mean the same: one on the command line replaces the other in the file.
    TWINS: ClassVar[Mapping[str, str]] = {name: f"reward.{name}" for name in ("max_think_tokens", "missing_eos_penalty")}

    max_think_tokens: Count | None = key(None, "same as reward.max_think_tokens; set either one (default 200)")
    missing_eos_penalty: NonNegative | None = key(None, "same as reward.missing_eos_penalty; set either one (default 0)")
    reward: RewardSection = key(RewardSection(), "the rule reward")

    _once = rewriting(_agree)

    @model_validator(mode="after")
    def _check_think_tokens(self) -> Self:
        least, most = self.reward.min_think_tokens, self.reward.max_think_tokens
        if most is not None and least > most:
            raise ValueError(f"reward.min_think_tokens: {least} is above max_think_tokens={most}")
        return self


class StageBConfig(ListKeys, RLConfig):
    """RL with a rule reward on lists of documents: think, then answer with an order, a pick or scores."""

    answer: Literal["permutation", "pick", "scores"] = key("permutation", "answer form: an order, the best document, or scores")
    max_prompt_tokens: Count = key(8192, "maximum prompt length in tokens; the documents of longer lists are cut further")
    max_new_tokens: Count = key(1024, "maximum completion length in tokens")
    system_prompt: str = key("", "system message; empty: r0's default for the answer form")
    reward: ListRewardSection = key(ListRewardSection(), "the rule reward")

    @model_validator(mode="after")
    def _check_answer(self) -> Self:
        if self.reward.js_weight and self.answer != "scores":
            weight = f"js_weight={self.reward.js_weight:g} (of reward.preset={self.reward.preset})"
            raise ValueError(f"reward.{weight} needs scores, but answer={self.answer} has none; use answer=scores")
        return self

    @property
    def form(self) -> Form:
        """The answer form."""
        return Form(self.answer)
