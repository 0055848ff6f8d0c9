"""What a model can do on the built-in task, skill by skill: a mean reward or loss hides a missing one.

Other data has no ``kind``, and no probes.
"""

from __future__ import annotations

from collections.abc import Sequence

from r0.completion import THINK
from r0.data.builtin import KIND_SHARES, claimed_kind, lookup_correct
from r0.records import Answer, Scored


def probes(scored: Sequence[Scored]) -> dict[str, float]:
    """Shares in [0, 1] over completions of built-in tasks; empty for others.

    probe/format            well formed, nothing wrong with it
    probe/lookup            the thought quotes the right sentence for every concept, or calls it absent
    probe/verdict           the answer follows from what the thought concludes, among those that conclude and answer
    probe/accuracy_<kind>   right answers among those that answer, by how the document was made
    """
    ours = [one for one in scored if one.rollout.task.kind]
    if not ours:
        return {}
    follows, lookups = [], []
    right: dict[str, list[bool]] = {kind: [] for kind, _ in KIND_SHARES}
    for one in ours:
        task, answer = one.rollout.task, one.verdict.answer
        thought = one.text.partition(THINK[0])[2].partition(THINK[1])[0]
        lookups.append(lookup_correct(task, thought))
        claimed = claimed_kind(thought)
        if answer is not None:
            right[task.kind].append((answer == Answer.YES) == bool(task.label))
            if claimed is not None:
                follows.append((answer == Answer.YES) == (claimed == "connected"))
    named = {"format": [one.verdict.well_formed for one in ours], "lookup": lookups, "verdict": follows}
    named |= {f"accuracy_{kind}": hits for kind, hits in right.items()}
    return {f"probe/{name}": sum(hits) / len(hits) for name, hits in named.items() if hits}
