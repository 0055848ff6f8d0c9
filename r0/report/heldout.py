"""Held-out figures with intervals, from the stored completions of the evaluations.

All evaluations of a run are of the same tasks. A figure is a ratio of two sums over tasks (for means, the second sum is the
number of completions), so a percentile bootstrap over tasks gives its 95 % interval, and, with the same draws, that of the change
from one evaluation to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from r0.records import Answer, Finish, ListwiseTask, Scored
from r0.report.run import Run
from r0.runs.calibration import FOLDER as HELDOUT
from r0.runs.metrics import ndcgs
from r0.runs.rollout_log import RolloutLog
from r0.storage.rollout_lines import read_rollouts

DRAWS = 1000
MOST_FILES = 20  # evaluations that are read, the first and the last among them
MODES = ("greedy", "sampled")
NDCG = "ndcg@10"


def _right(one: Scored) -> bool:
    return one.verdict.answer == (Answer.YES if one.rollout.task.label else Answer.NO)


# Figures as ``rollout_metrics`` names them: value and weight of a completion.
FIGURES: dict[str, Callable[[Scored], tuple[float, float]]] = {
    "reward": lambda one: (one.total, 1.0),
    "accuracy": lambda one: (float(_right(one)), 1.0),
    "accuracy_well_formed": lambda one: (float(_right(one) and one.verdict.well_formed), float(one.verdict.well_formed)),
    NDCG: lambda one: (ndcgs(one.rollout.task, one.verdict)[0], 1.0),
    "ndcg@10_given": lambda one: (ndcgs(one.rollout.task, one.verdict)[1], 1.0),
    "format_rate": lambda one: (float(one.verdict.answer is not None), 1.0),
    "well_formed_rate": lambda one: (float(one.verdict.well_formed), 1.0),
    "cut_share": lambda one: (float(one.rollout.sampled.finish == Finish.LENGTH), 1.0),
    "think_tokens": lambda one: (float(one.verdict.think_tokens), 1.0),
    "completion_tokens": lambda one: (float(len(one.rollout.sampled.token_ids)), 1.0),
}
OF_LISTS, OF_PAIRS = (NDCG, "ndcg@10_given"), ("accuracy", "accuracy_well_formed")


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; without one if only the figure is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A held-out figure before and after."""

    mode: str
    name: str
    before: Estimate
    after: Estimate | None = None
    change: Estimate | None = None


@dataclass
class Evaluations:
    """The stored evaluations of a run: by (mode, step, figure) the sums of each task, [tasks, 2]."""

    sums: dict[tuple[str, int, str], np.ndarray] = field(default_factory=dict)
    tasks: int = 0

    def estimate(self, mode: str, step: int, name: str) -> Estimate | None:
        """A figure after ``step``; None if its completions are not stored."""
        sums = self.sums.get((mode, step, name))
        return None if sums is None else _estimate(_ratio(sums.sum(axis=0)), _ratio(_drawn(sums)))

    def change(self, mode: str, first: int, last: int, name: str) -> Estimate | None:
        """The change of a figure from one step to another, if both are of the same tasks."""
        one, two = self.sums.get((mode, first, name)), self.sums.get((mode, last, name))
        if one is None or two is None or len(one) != len(two):
            return None
        return _estimate(_ratio(two.sum(axis=0)) - _ratio(one.sum(axis=0)), _ratio(_drawn(two)) - _ratio(_drawn(one)))

    def intervals(self, mode: str, name: str, steps: Sequence[int]) -> list[tuple[float, float] | None]:
        """(low, high) of a figure after each of the steps; None where it is not known."""
        found = [self.estimate(mode, step, name) for step in steps]
        return [(one.low, one.high) if one and one.low is not None and one.high is not None else None for one in found]


def files(run: Run, mode: str) -> dict[int, Path]:
    """The stored completions of each evaluation."""
    return RolloutLog(run.path / HELDOUT / mode).files()


def read_evaluations(run: Run) -> Evaluations:
    """The figures of the stored evaluations, at most ``MOST_FILES`` of each mode.

    Raises:
        UserError: a file is damaged.
    """
    found = Evaluations()
    for mode in MODES:
        stored = files(run, mode)
        for step in evenly(list(stored), MOST_FILES):
            scored = [one.scored for one in read_rollouts(stored[step], "delete it, and the report leaves it out")]
            for name, sums in _sums(scored):
                found.sums[mode, step, name] = sums
                found.tasks = max(found.tasks, len(sums))
    lists = {step: content["ndcg"] for step, content in _stage_c(run) if content.get("ndcg")}
    for step, values in lists.items():
        found.sums["", step, NDCG] = np.array([(value, 1.0) for value in values])
        found.tasks = max(found.tasks, len(values))
    return found


def _stage_c(run: Run) -> Iterator[tuple[int, Mapping[str, Sequence[float]]]]:
    """The evaluations of a stage C run: nDCG of each list."""
    if run.marker.command == "stage_c" and run.evaluations:
        for name, line in (("before.json", run.evaluations[0]), ("after.json", run.evaluations[-1])):
            if content := run.json(name):
                yield int(line["step"] or 0), content


def rows(run: Run, evaluations: Evaluations) -> list[Row]:
    """The first and the last evaluation of a run, every figure of its record."""
    if not run.evaluations:
        return []
    first, last = run.evaluations[0], run.evaluations[-1]
    steps = int(first["step"] or 0), int(last["step"] or 0)
    found = []
    for full in dict.fromkeys([*first, *last]):
        before, after = first.get(full), last.get(full)
        if not full.startswith("heldout/") or (before is None and after is None):
            continue
        mode, name = _split(full)
        if before is None:  # figures of the end alone, such as p-values
            continue
        one = evaluations.estimate(mode, steps[0], name) or Estimate(before)
        if first is last or after is None:
            found.append(Row(mode, name, one))
            continue
        two = evaluations.estimate(mode, steps[1], name) or Estimate(after)
        found.append(Row(mode, name, one, two, evaluations.change(mode, *steps, name) or Estimate(after - before)))
    return sorted(found, key=_order)


def _order(row: Row) -> tuple[bool, int, int]:
    """Figures with intervals first, by mode, in the order of ``FIGURES``."""
    place = list(FIGURES).index(row.name) if row.name in FIGURES else len(FIGURES)
    return row.before.low is None, MODES.index(row.mode) if row.mode in MODES else len(MODES), place


def _split(full: str) -> tuple[str, str]:
    """``heldout/greedy/reward`` → (``greedy``, ``reward``)."""
    rest = full.removeprefix("heldout/")
    mode, slash, name = rest.partition("/")
    return (mode, name) if slash and mode in MODES else ("", rest)


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(at * (len(items) - 1) / (most - 1))] for at in range(most)]


def _sums(scored: Sequence[Scored]) -> Iterator[tuple[str, np.ndarray]]:
    """Each figure's sums by task, [tasks, 2], in the order of the tasks' ids."""
    groups: dict[int, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.rollout.task.task_id, []).append(one)
    ordered = [groups[task] for task in sorted(groups)]
    lists = any(isinstance(one.rollout.task, ListwiseTask) for one in scored)
    for name, figure in FIGURES.items():
        if ordered and name not in (OF_PAIRS if lists else OF_LISTS):
            yield name, np.array([np.sum([figure(one) for one in group], axis=0) for group in ordered])


def _drawn(sums_T2: np.ndarray) -> np.ndarray:
    """[DRAWS, 2] sums over tasks drawn with replacement; the same draws for the same number of tasks."""
    size = len(sums_T2)
    times_DT = np.random.default_rng(0).multinomial(size, np.full(size, 1.0 / size), size=DRAWS)
    return times_DT @ sums_T2


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _estimate(value: np.ndarray, draws_D: np.ndarray) -> Estimate:
    known = draws_D[np.isfinite(draws_D)]
    if not np.isfinite(value) or not len(known):
        return Estimate(float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
