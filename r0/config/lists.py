"""Keys of everything that works on lists of documents, and stage B's reward with the published presets."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from r0.config.presets import PRESETS
from r0.config.sections import Count, NonNegative, RewardBase, Section, Share, key


class ListSourceKeys(Section):
    """How lists are put together."""

    candidates: Annotated[int, Field(ge=2)] = key(20, "documents of a list, at most; deeper lists give windows of so many")
    lists_per_query: Count = key(1, "lists made of each query whose candidates are more than one list holds")
    random_negatives: Share = key(0.0, "share of a list's irrelevant documents that is drawn from other queries' candidates")


class ListKeys(ListSourceKeys):
    """How lists are put together and shown."""

    passage_tokens: Count = key(256, "every document of a list is cut to so many tokens, and further where the list does not fit")


class ListRewardSection(RewardBase):
    """Stage B's rule reward: what each component is worth. Documents that an answer does not order are gained nothing from."""

    name: str = key("stage_b", "name of a reward registered in r0 or by an installed package's `r0.rewards` entry point")
    preset: Literal["r0", "reasonrank", "rearank", "rank_r1", "grouprank", "tfrank"] = key(
        "r0", "where weights that are not given come from: r0's own, or a published reward"
    )
    k: Count = key(10, "cutoff of nDCG and Recall")
    tag_weight: NonNegative = key(0.1, "for both pairs of tags, once each and in order")
    answer_weight: NonNegative = key(0.1, "for an answer of the asked form")
    ndcg_weight: NonNegative = key(1.0, "× nDCG@k, linear gain")
    ndcg_gain_weight: NonNegative = key(0.0, "× (nDCG@k − the given order's) / (1 − the given order's), at least −1")
    recall_weight: NonNegative = key(0.0, "× Recall@k of the relevant documents")
    rbo_weight: NonNegative = key(0.0, "× rank-biased overlap with the ideal order, as a share of the largest there can be")
    rbo_p: Annotated[float, Field(gt=0, lt=1)] = key(0.9, "persistence p of rank-biased overlap")
    exact_weight: NonNegative = key(0.0, "for an order that puts no document behind one of a lower grade")
    js_weight: NonNegative = key(0.0, "× (1 − Jensen-Shannon divergence of the scores and the grades); answer=scores only")
    pick_weight: NonNegative = key(0.0, "for a best document that is relevant")
    think_bonus: NonNegative = key(0.0, "for a thought of min_think_tokens to max_think_tokens")
    min_think_tokens: Annotated[int, Field(ge=0)] = key(16, "shortest thought that earns think_bonus, in tokens")
    max_think_tokens: Count = key(800, "longest thought that earns think_bonus and costs no length_penalty, in tokens")
    length_penalty: NonNegative = key(0.05, "taken away × (thinking tokens − max) / max, above max_think_tokens")
    extra_text_penalty: NonNegative = key(0.2, "taken away for text after the last </answer>")
    invalid_tag_penalty: NonNegative = key(0.5, "the whole reward, negative, where a pair is missing, repeated or misplaced")
    invalid_answer_penalty: NonNegative = key(0.1, "taken away where the tags hold and the answer is not of the asked form")
    missing_eos_penalty: NonNegative = key(0.2, "taken away when the token limit cut the completion")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Weights that are not given come from the preset."""
        if not isinstance(given, dict):
            return given
        return {**PRESETS.get(str(given.get("preset", "r0")), {}), **given}

    @model_validator(mode="after")
    def _check_think_tokens(self) -> Self:
        least, most = self.min_think_tokens, self.max_think_tokens
        if self.think_bonus and least > most:
            raise ValueError(f"min_think_tokens: {least} is above max_think_tokens={most}, so no thought can earn think_bonus")
        return self
