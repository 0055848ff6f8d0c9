"""Stage B's reward of an answer about a list. The weights come from the section, and thereby from a published preset.

There are three cases, each worth at most as much as the next (with r0's weights and those of every preset):

* a tag is missing, repeated or misplaced: ``-invalid_tag_penalty``, and otherwise only the penalty for a missing end;
* the tags are correct, but the answer is not of the requested form: ``tag_weight - invalid_answer_penalty``;
* otherwise ``tag_weight + answer_weight`` and the weighted measures of the ranking.

Only complete answers are ranked (``r0.text.answers.read_strict``), so repeating, omitting or inventing documents gains
nothing. A tie is worth the mean over all orders of its documents.
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
    """Returns all of ``COMPONENTS`` for a verdict and a ``ListLabel``; penalties are negative or 0.0."""

    def __init__(self, section: ListRewardSection):
        self._section = section

    def __call__(self, verdict: Verdict, label: ListLabel) -> dict[str, float]:
        """The components; their sum is the reward."""
        section, wrong = self._section, verdict.violations
        components = dict.fromkeys(COMPONENTS, 0.0)
        if Violation.CUT in wrong:
            components["eos"] = 0.0 - section.missing_eos_penalty  # 0.0 - x instead of -x: no penalty is 0.0, not -0.0
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
        """The unweighted measure, in [0, 1] (the gain: in [-1, 1])."""
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
            case _:  # pick: the share of relevant documents among those tied for the top
                return sum(document in label.relevant for document in ranking[0]) / len(ranking[0])


def gain(reached: float, given: float) -> float:
    """nDCG gain over the first-stage order, relative to the possible gain: (reached - given) / (1 - given), in [-1, 1].

    If the first-stage order is ideal, nothing can be gained: reached - 1. The floor of -1 keeps a bad order of a well-ordered
    list from costing many times the gain of a good order. Ties never benefit from the floor, since it is convex.
    """
    if given >= 1.0:
        return reached - 1.0
    return max(WORST_GAIN, (reached - given) / (1.0 - given))


@lru_cache(maxsize=4096)
def _given_ndcg(label: ListLabel, k: int) -> float:
    return ndcg(label.grades, groups_of_order(label.given), k)


@lru_cache(maxsize=4096)
def _best_rbo(ideal: Groups, p: float) -> float:
    """The largest overlap of any order with ``ideal``; below 1 because of its ties."""
    return rbo(ideal, ideal, p)
