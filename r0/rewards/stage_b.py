"""Stage B's reward: what an answer about a list is worth. Weights come from the section, and with it from a published preset.

Three cases, each worth at most what the next one is (with r0's weights and those of every preset):

* a tag is missing, repeated or misplaced: ``-invalid_tag_penalty``, and nothing else but the missing end;
* the tags hold, and the answer is not of the asked form: ``tag_weight - invalid_answer_penalty``;
* otherwise ``tag_weight + answer_weight`` and the weighed measures of the ranking.

Only a whole answer is ranked (``r0.text.answers.read_strict``), so nothing is won by repeating, omitting or inventing
documents; and a tie is worth what its documents are worth on average over their orders.
"""

from __future__ import annotations

from functools import lru_cache

from r0.config.lists import ListRewardSection
from r0.ranking import Groups, groups_of_order, ideal_groups, js_divergence, ndcg, rbo, recall, share_ordered
from r0.records import ListLabel, Verdict, Violation
from r0.rewards.registry import register
from r0.rewards.stage_a import TAG_VIOLATIONS

MEASURES = ("ndcg", "ndcg_gain", "recall", "rbo", "exact", "js", "pick")
COMPONENTS = ("tags", "answer", *MEASURES, "thinking", "length", "extra_text", "invalid_tags", "invalid_answer", "eos")
WORST_GAIN = -1.0


@register("stage_b", ListRewardSection)
class StageBReward:
    """Called with a verdict and a ``ListLabel``, gives all of ``COMPONENTS``; penalties are negative or 0.0."""

    def __init__(self, section: ListRewardSection):
        self._section = section

    def __call__(self, verdict: Verdict, label: ListLabel) -> dict[str, float]:
        """The components; their sum is the reward."""
        section, wrong = self._section, verdict.violations
        components = dict.fromkeys(COMPONENTS, 0.0)
        if Violation.CUT in wrong:
            components["eos"] = 0.0 - section.missing_eos_penalty  # 0.0 - x, because -x would make a penalty of nothing -0.0
        if not wrong.isdisjoint(TAG_VIOLATIONS):
            components["invalid_tags"] = 0.0 - section.invalid_tag_penalty
            return components
        tokens, most = verdict.think_tokens, section.max_think_tokens
        components["tags"] = section.tag_weight
        components["length"] = 0.0 - section.length_penalty * max(0, tokens - most) / most
        if Violation.EXTRA_TEXT in wrong:
            components["extra_text"] = 0.0 - section.extra_text_penalty
        if verdict.ranking is None:
            components["invalid_answer"] = 0.0 - section.invalid_answer_penalty
            return components
        components["answer"] = section.answer_weight
        if section.min_think_tokens <= tokens <= most:
            components["thinking"] = section.think_bonus
        for name in MEASURES:
            weight = getattr(section, f"{name}_weight")
            if weight:
                components[name] = weight * self._measure(name, verdict.ranking, verdict.scores, label)
        return components

    def _measure(self, name: str, ranking: Groups, scores: tuple[float, ...] | None, label: ListLabel) -> float:
        """The measure without its weight: in [0, 1], and the gain in [-1, 1]."""
        section = self._section
        match name:
            case "ndcg":
                return ndcg(label.grades, ranking, section.k)
            case "ndcg_gain":
                return gain(ndcg(label.grades, ranking, section.k), _given_ndcg(label, section.k))
            case "recall":
                return recall(label.relevant, ranking, section.k)
            case "rbo":
                ideal = ideal_groups(label.grades)
                return rbo(ranking, ideal, section.rbo_p) / _best_rbo(ideal, section.rbo_p)
            case "exact":
                return share_ordered(label.grades, ranking)
            case "js":
                return 0.0 if scores is None else 1 - js_divergence(scores, label.grades)
            case _:  # pick: the best document, or the share of relevant ones among those tied for it
                return sum(document in label.relevant for document in ranking[0]) / len(ranking[0])


def gain(reached: float, given: float) -> float:
    """nDCG gained over the given order, relative to what there was to gain: (reached - given) / (1 - given), in [-1, 1].

    Where the given order is ideal there is only something to lose: reached - 1. The floor of -1 keeps a bad order of a good list
    from costing many times what a good order can win. It is the same or worse for ties, never better (the floor is convex).
    """
    if given >= 1.0:
        return reached - 1.0
    return max(WORST_GAIN, (reached - given) / (1.0 - given))


@lru_cache(maxsize=4096)
def _given_ndcg(label: ListLabel, k: int) -> float:
    return ndcg(label.grades, groups_of_order(label.given), k)


@lru_cache(maxsize=4096)
def _best_rbo(ideal: Groups, p: float) -> float:
    """The largest overlap that an order can have with ``ideal``, whose ties keep it below 1."""
    return rbo(ideal, ideal, p)
