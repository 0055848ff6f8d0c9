"""Keys of commands on lists of documents, and of stage B's reward with the published presets."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from r0.config.presets import PRESETS
from r0.config.sections import Count, NonNegative, RewardBase, Section, Share, key
from r0.config.types import CountFrom0, CountFrom2


class ListSourceKeys(Section):
    """How lists are built."""

    candidates: CountFrom2 = key(20, "maximum documents per list; longer lists are split into windows of this size")
    lists_per_query: Count = key(1, "maximum windows per query whose candidates do not fit one list")
    random_negatives: Share = key(0.0, "share of a list's irrelevant documents replaced by candidates of other queries")


class ListKeys(ListSourceKeys):
    """How lists are built and shown."""

    passage_tokens: Count = key(
        256, "tokens per document of a list; documents are cut to this, or shorter if the list does not fit"
    )


class ListRewardSection(RewardBase):
    """Stage B's rule reward: the weight of each component. Documents missing from an answer gain nothing."""

    name: str = key("stage_b", "name of a reward registered in r0 or by an installed package's `r0.rewards` entry point")
    preset: Literal["r0", "reasonrank", "rearank", "rank_r1", "grouprank", "tfrank"] = key(
        "r0", "source of weights that are not given: r0's defaults, or a published reward"
    )
    k: Count = key(10, "cutoff of nDCG and Recall")
    tag_weight: NonNegative = key(0.1, "reward for both tag pairs, each exactly once and in order")
    answer_weight: NonNegative = key(0.1, "reward for an answer of the requested form")
    ndcg_weight: NonNegative = key(1.0, "weight of nDCG@k with linear gain")
    ndcg_gain_weight: NonNegative = key(
        0.0, "weight of (nDCG@k − given) / (1 − given), given: nDCG@k of the first stage; at least −1"
    )
    recall_weight: NonNegative = key(0.0, "weight of Recall@k of the relevant documents")
    rbo_weight: NonNegative = key(0.0, "weight of rank-biased overlap with the ideal order, divided by its maximum")
    rbo_p: Annotated[float, Field(gt=0, lt=1)] = key(0.9, "persistence p of rank-biased overlap")
    exact_weight: NonNegative = key(0.0, "reward for an order in which no document follows one of a lower grade")
    js_weight: NonNegative = key(0.0, "weight of 1 − Jensen-Shannon divergence of scores and grades; answer=scores only")
    pick_weight: NonNegative = key(0.0, "reward for a relevant document at the top")
    think_bonus: NonNegative = key(0.0, "reward for a thought of min_think_tokens to max_think_tokens")
    min_think_tokens: CountFrom0 = key(16, "shortest thought that earns think_bonus, in tokens")
    max_think_tokens: Count = key(800, "longest thought that earns think_bonus and costs no length_penalty, in tokens")
    length_penalty: NonNegative = key(0.05, "penalty above max_think_tokens, multiplied by (thinking tokens − max) / max")
    extra_text_penalty: NonNegative = key(0.2, "penalty for text after the last </answer>")
    invalid_tag_penalty: NonNegative = key(0.5, "penalty, in place of all rewards, for a missing, repeated or misplaced tag pair")
    invalid_answer_penalty: NonNegative = key(0.1, "penalty for correct tags with an answer not of the requested form")
    missing_eos_penalty: NonNegative = key(0.2, "penalty for a completion cut at the token limit")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Take weights that are not given from the preset."""
        if not isinstance(given, dict):
            return given
        return {**PRESETS.get(str(given.get("preset", "r0")), {}), **given}

    @model_validator(mode="after")
    def _check_think_tokens(self) -> Self:
        least, most = self.min_think_tokens, self.max_think_tokens
        if self.think_bonus and least > most:
            raise ValueError(f"min_think_tokens: {least} is above max_think_tokens={most}, so no thought can earn think_bonus")
        return self
