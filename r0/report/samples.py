"""What a model said: the worst and the best completions of some steps, and held-out completions before and after.

What is chosen and how much of it is bounded, so that a page stays small whatever the run's length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from r0.records import Answer, ListwiseTask, Scored, Task
from r0.report.heldout import evenly, files
from r0.report.numbers import cut, visible
from r0.report.run import Run
from r0.runs.live import progress
from r0.runs.metrics import ndcgs
from r0.runs.rollout_log import RolloutLog
from r0.storage.rollout_lines import read_rollouts

STEPS = 20  # of whose completions some are shown
PAIRS = 100  # held-out tasks
TEXT, DOCUMENTS = 4000, 6000  # characters of a completion, and of all documents of a task
LEAST = 200  # characters of each document of a long list
REMEDY = "delete it, and the report leaves it out"


@dataclass
class Samples:
    """``items`` as the page's script reads them, and what was left out, in sentences."""

    items: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_samples(run: Run, number: int, each: int) -> Samples:
    """The completions of run ``number`` of the page, ``each`` worst and best of a step.

    Raises:
        UserError: a file is damaged.
    """
    found = Samples()
    _pairs(run, number, found)
    _training(run, number, each, found)
    return found


def _training(run: Run, number: int, each: int, found: Samples) -> None:
    stored = RolloutLog(run.path / "rollouts").files()
    chosen = evenly(list(stored), STEPS) if each else []
    seen = 0
    for step in progress(chosen[::-1], f"reading rollouts of {run.name}"):
        scored = [one.scored for one in read_rollouts(stored[step], REMEDY)]
        seen += len(scored)
        worst = extreme(scored, each)
        best = [one for one in extreme(scored, each, best=True) if not any(one is other for other in worst)]
        for kind, some in (("worst", worst), ("best", best)):
            found.items += [{"run": number, "set": kind, **_task(one.rollout.task), "after": _said(one, step)} for one in some]
    if chosen:
        steps = f"{len(chosen)} of {len(stored)} stored steps" if len(chosen) < len(stored) else f"all {len(stored)} stored steps"
        found.notes.append(f"{run.name}: the {each} worst and the {each} best completions of {steps}; {seen} were read")


def _pairs(run: Run, number: int, found: Samples) -> None:
    """Held-out completions, greedy, of the first and of the last evaluation."""
    stored = files(run, "greedy")
    if not stored:
        return
    first, last = min(stored), max(stored)
    before, after = (
        {one.scored.rollout.task.task_id: one.scored for one in read_rollouts(stored[step], REMEDY)} for step in (first, last)
    )
    both = [(one, after[task]) for task, one in before.items() if task in after]
    shown = sorted(both, key=lambda pair: -abs(pair[1].total - pair[0].total))[:PAIRS]
    for one, two in shown:
        item = {"run": number, "set": "heldout", **_task(one.rollout.task), "before": _said(one, first)}
        found.items.append(item if first == last else {**item, "after": _said(two, last)})
    which = f"{len(shown)} of {len(both)}" if len(shown) < len(both) else f"all {len(both)}"
    found.notes.append(f"{run.name}: {which} held-out tasks, decoded greedily; those whose reward changed most come first")


def extreme(scored: Iterable[Scored], count: int, best: bool = False) -> list[Scored]:
    """The completions of lowest (or highest) reward: of different prompts first, then others of the same."""
    ordered = sorted(scored, key=lambda one: (-one.total if best else one.total, one.rollout.group, one.rollout.sample))
    groups: set[int] = set()
    first, others = list[Scored](), list[Scored]()
    for one in ordered:
        (others if one.rollout.group in groups else first).append(one)
        groups.add(one.rollout.group)
    return [*first, *others][:count]


def _task(task: Task) -> dict[str, Any]:
    """Query, documents and label."""
    if not isinstance(task, ListwiseTask):
        label = str(Answer.YES if task.label else Answer.NO)
        documents = [{"name": "document", "text": cut(task.document, DOCUMENTS)}]
        return {"task": task.task_id, "query": cut(task.query, TEXT), "label": label, "documents": documents}
    most = max(LEAST, DOCUMENTS // max(1, task.size))
    documents = [
        {"name": f"[{number}] grade {grade:g}", "text": cut(text, most)}
        for number, (grade, text) in enumerate(zip(task.label.grades, task.documents, strict=True), 1)
    ]
    given = " > ".join(f"[{place + 1}]" for place in task.label.given)
    return {"task": task.task_id, "query": cut(task.query, TEXT), "label": f"given {given}", "documents": documents}


def _said(one: Scored, step: int) -> dict[str, Any]:
    """A completion with its verdict and reward."""
    verdict, task = one.verdict, one.rollout.task
    if isinstance(task, ListwiseTask):
        gained, given = ndcgs(task, verdict)
        right, judged = gained >= given and verdict.answer is not None, f"nDCG@10 {gained:.3f}, given {given:.3f}"
    else:
        right, judged = verdict.answer == (Answer.YES if task.label else Answer.NO), ""
    return {
        "step": step,
        "text": cut(one.text, TEXT),
        "answer": visible(verdict.answer or ""),
        "right": right,
        "judged": judged,
        "reward": round(one.total, 4),
        "components": {name: round(value, 4) for name, value in one.components.items() if value},
        "think": verdict.think_tokens,
        "tokens": len(one.rollout.sampled.token_ids),
        "violations": sorted(verdict.violations),
    }


def violations(items: Sequence[dict[str, Any]]) -> list[str]:
    """The violations that occur, for the filter."""
    return sorted({name for item in items for side in ("before", "after") for name in item.get(side, {}).get("violations", ())})
