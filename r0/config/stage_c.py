"""The configuration of stage C: a score that orders close calls, learned without new layers."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from r0.config.commands import RankKeys, RunKeys, ScheduleKeys
from r0.config.lists import ListSourceKeys
from r0.config.sections import Count, NonNegative, Positive, RolloutSection, Section, key


class ScoreLossSection(Section):
    """What the loss of a list is: the sum of these, each times its weight. Labels are scaled to 0…1."""

    bce_weight: NonNegative = key(1.0, "binary cross-entropy of P(yes), mean over documents: calibrates the score")
    mse_weight: NonNegative = key(0.0, "squared difference of P(yes) and label, mean over documents")
    ranknet_weight: NonNegative = key(1.0, "RankNet: log(1 + exp(−difference of scores)), mean over pairs of unlike labels")
    listnet_weight: NonNegative = key(0.0, "ListNet: cross-entropy of softmax(scores) against softmax(labels)")
    listnet_temperature: Positive = key(1.0, "labels are divided by it before their softmax")
    infonce_weight: NonNegative = key(0.0, "InfoNCE: each document against those of its list with lower labels")
    infonce_temperature: Positive = key(1.0, "scores are divided by it")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(self.weights.values()):
            raise ValueError("bce_weight: all weights are 0, so there is nothing to learn; give one a weight above 0")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weights by the names of the losses."""
        suffix = "_weight"
        fields = type(self).model_fields
        return {name.removesuffix(suffix): getattr(self, name) for name in fields if name.endswith(suffix)}


class StageCConfig(ListSourceKeys, ScheduleKeys, RankKeys, RunKeys):
    """Fine-grained scores: score = logit(yes) − logit(no) where the answer stands, learned from the labels of lists."""

    thinking: bool = key(
        False, "score behind a thought that the starting model samples once and that is kept; false: thinking switched off"
    )
    loss: ScoreLossSection = key(ScoreLossSection(), "the loss of a list")
    kl_coef: NonNegative = key(
        0.0, "weight of the KL from the starting model on completions of its own: keeps how it thinks, and yes or no its answer"
    )
    max_new_tokens: Count = key(512, "token limit of a sampled completion")
    temperature: Positive = key(1.0, "sampling temperature of kept thoughts; what is measured is sampled greedily")
    system_prompt: str = key("", "system message; empty: what the model was trained with, or r0's own")
    batch_size: Count = key(8, "lists an update sees over all ranks")
    micro_batch_size: Count = key(
        1, "lists a rank computes at one time; one forward pass holds all their documents: lists × candidates × prompt tokens"
    )
    eval_lists: Annotated[int, Field(ge=0)] = key(100, "held-out lists measured before and after, at most; 0: none")
    rollout: RolloutSection = key(RolloutSection(), "sampling workers: kept thoughts, and what is measured; not while learning")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.label_sampling != "natural":
            raise ValueError("label_sampling: a list holds relevant and other documents; use label_sampling=natural")
        if self.ray.inline and (self.ranks > 1 or self.rollout.workers > 1):
            raise ValueError("ray.inline: runs one rank and one engine; set ranks=1 and rollout.workers=1")
        return self

    @property
    def samples(self) -> bool:
        """Whether completions of the starting model are sampled and kept."""
        return self.thinking or self.kl_coef > 0
