"""The configuration of stage C: fine-grained scores learned without new layers."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from r0.config.commands import RankKeys, RunKeys, ScheduleKeys
from r0.config.lists import ListSourceKeys
from r0.config.sections import Count, NonNegative, Positive, RolloutSection, Section, key
from r0.config.types import CountFrom0


class ScoreLossSection(Section):
    """The loss of a list: the weighted sum of these losses. Labels are scaled to 0…1."""

    bce_weight: NonNegative = key(1.0, "weight of the binary cross-entropy of P(yes), mean over documents; calibrates the score")
    mse_weight: NonNegative = key(0.0, "weight of the squared difference of P(yes) and label, mean over documents")
    ranknet_weight: NonNegative = key(
        1.0, "weight of RankNet: log(1 + exp(−score difference)), mean over pairs of unequal labels"
    )
    listnet_weight: NonNegative = key(0.0, "weight of ListNet: cross-entropy of softmax(scores) against softmax(labels)")
    listnet_temperature: Positive = key(1.0, "divisor of the labels in ListNet's softmax")
    infonce_weight: NonNegative = key(0.0, "weight of InfoNCE: each document against those of its list with lower labels")
    infonce_temperature: Positive = key(1.0, "divisor of the scores in InfoNCE")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(self.weights.values()):
            raise ValueError("bce_weight: all loss weights are 0; set at least one above 0")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weights by loss name."""
        suffix = "_weight"
        fields = type(self).model_fields
        return {name.removesuffix(suffix): getattr(self, name) for name in fields if name.endswith(suffix)}


class StageCConfig(ListSourceKeys, ScheduleKeys, RankKeys, RunKeys):
    """Fine-grained scores: learn score = logit(yes) − logit(no) at the answer from the labels of lists."""

    thinking: bool = key(
        False, "score after a thought, which the starting model samples once before training; false: without a thought"
    )
    loss: ScoreLossSection = key(ScoreLossSection(), "the loss of a list")
    kl_coef: NonNegative = key(
        0.0, "weight of the KL from the starting model on its own completions; preserves its thinking and its answer format"
    )
    max_new_tokens: Count = key(512, "maximum length of a sampled completion in tokens")
    temperature: Positive = key(1.0, "sampling temperature of training thoughts; evaluation is greedy")
    system_prompt: str = key("", "system message; empty: the one the model was trained with, or r0's default")
    batch_size: Count = key(8, "lists per update, over all ranks")
    micro_batch_size: Count = key(
        1, "lists per rank in one forward pass, which holds all their documents: lists × candidates × prompt tokens"
    )
    eval_lists: CountFrom0 = key(100, "maximum number of held-out lists, measured before and after; 0: none")
    rollout: RolloutSection = key(RolloutSection(), "sampling workers, for thoughts and evaluation; not used while training")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.label_sampling != "natural":
            raise ValueError("label_sampling: does not apply to lists; use label_sampling=natural")
        if self.ray.inline and (self.ranks > 1 or self.rollout.workers > 1):
            raise ValueError("ray.inline: supports one rank and one engine; set ranks=1 and rollout.workers=1")
        return self

    @property
    def samples(self) -> bool:
        """Whether completions of the starting model are sampled before training."""
        return self.thinking or self.kl_coef > 0
