"""Measures single skills of a model on the built-in task; a mean reward or loss would hide a missing skill.

Other data has no ``kind``, and therefore no probes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from r0.data.builtin.lists import checks_right, claimed_grades
from r0.data.builtin.pairs import KIND_SHARES, claimed_kind, lookup_correct
from r0.ranking import Groups, ideal_groups
from r0.records import Answer, Form, ListwiseTask, PointwiseTask, Scored, ScoredGroup
from r0.sampling import whole
from r0.text.completion import THINK


def probes(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Shares in [0, 1] over completions of built-in tasks; empty for other tasks.

    probe/format            well-formed completions
    probe/lookup            thoughts that quote the right sentence for every concept, or say it is absent; for lists: the share of
                            documents that the thought checks correctly
    probe/verdict           answers that follow from the conclusion of the thought, among completions with both
    probe/accuracy_<kind>   correct answers among completions with an answer, by the kind of the document (pairs only)
    """
    ours = [group for group in groups if group.task.kind]
    if not ours:
        return {}
    named = {"format": [score.verdict.well_formed for group in ours for score in group.scores]}
    named |= (_of_lists if isinstance(ours[0].task, ListwiseTask) else _of_pairs)(whole(ours))
    return {f"probe/{name}": sum(hits) / len(hits) for name, hits in named.items() if hits}


def _of_pairs(scored: Iterable[Scored]) -> Mapping[str, list[bool]]:
    lookups, follows = [], []
    right: dict[str, list[bool]] = {kind: [] for kind, _ in KIND_SHARES}
    for one in scored:
        task, answer, thought = one.rollout.task, one.verdict.answer, _thought(one)
        if not isinstance(task, PointwiseTask):
            continue
        lookups.append(lookup_correct(task, thought))
        claimed = claimed_kind(thought)
        if answer is not None:
            right[task.kind].append((answer == Answer.YES) == bool(task.label))
            if claimed is not None:
                follows.append((answer == Answer.YES) == (claimed == "connected"))
    return {"lookup": lookups, "verdict": follows} | {f"accuracy_{kind}": hits for kind, hits in right.items()}


def _of_lists(scored: Iterable[Scored]) -> Mapping[str, list[bool]]:
    lookups, follows = [], []
    for one in scored:
        task, ranking, thought = one.rollout.task, one.verdict.ranking, _thought(one)
        if not isinstance(task, ListwiseTask):
            continue
        lookups += checks_right(task, thought)
        claimed = claimed_grades(thought, task.size)
        if ranking is not None and claimed is not None:
            follows.append(_follows(task.form, ranking, ideal_groups(claimed)))
    return {"lookup": lookups, "verdict": follows}


def _follows(form: Form, ranking: Groups, best: Groups) -> bool:
    """Whether an answer agrees with its thought's conclusion: documents of one grade are tied; a pick is one of the best."""
    if form == Form.PICK:
        return ranking[0][0] in best[0]
    return list(map(frozenset, ranking)) == list(map(frozenset, best))


def _thought(one: Scored) -> str:
    return one.text.partition(THINK[0])[2].partition(THINK[1])[0]
