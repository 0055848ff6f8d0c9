"""The table of a benchmark: one row per data set, with the first stage, the reranked run, their difference and its
significance, and the mean over the sets that were measured alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from r0.evaluation.report import DatasetReport, Report
from r0.evaluation.table import TESTS, comparison, dataset_notes, escaped, markdown_rows, record, text_rows

_HEAD = ["data set", "queries", "measure", "first stage", "reranked", "Δ", "p"]


@dataclass(frozen=True, slots=True)
class SetResult:
    """A data set that was measured: the first stage and the reranked run."""

    name: str
    first_stage: str  # BM25, or the name of the run's file
    report: Report  # of this set alone

    @property
    def dataset(self) -> DatasetReport:
        """The two runs."""
        return replace(self.report.datasets[0], name=self.name)

    @property
    def values(self) -> tuple[float, float]:
        """The table's measure of the first stage and of the reranked run."""
        before, after = (run.means[self.report.main] for run in self.dataset.runs)
        return before, after

    def sentence(self) -> str:
        """The result in a line."""
        before, after = self.values
        return f"{self.name}: {self.report.main} {before:.4f} → {after:.4f} ({comparison(self.dataset.runs[1])[0].strip()})"


@dataclass
class Results:
    """The data sets of a benchmark, in its order: those that were measured, and the reasons why others were not."""

    model: str
    method: str
    total: int
    done: list[SetResult] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def means(self) -> Iterator[tuple[str, int, float, float]]:
        """(measure, number of sets, mean of the first stage, mean of the reranked run) of each measure; sets weigh alike."""
        for measure in dict.fromkeys(one.report.main for one in self.done):
            before, after = np.mean([one.values for one in self.done if one.report.main == measure], axis=0)
            yield measure, sum(one.report.main == measure for one in self.done), float(before), float(after)


def text(results: Results) -> str:
    """The table for a terminal."""
    return "\n".join([_title(results), "", *text_rows(_rows(results)), "", *_notes(results), ""])


def markdown(results: Results) -> str:
    """The table as Markdown."""
    notes = (f"- {escaped(note)}" for note in _notes(results))
    return "\n".join([f"**{escaped(_title(results))}**", "", *markdown_rows(_rows(results)), "", *notes, ""])


def as_json(results: Results) -> str:
    """Everything that was measured, for programs."""
    sets = [
        {
            "data_set": one.name,
            "measure": one.report.main,
            "queries": one.dataset.queries,
            "first_stage": one.first_stage,
            "runs": [record(run, one.dataset.queries) for run in one.dataset.runs],
        }
        for one in results.done
    ]
    mean = [
        {"measure": measure, "data_sets": count, "first_stage": before, "reranked": after, "difference": after - before}
        for measure, count, before, after in results.means()
    ]
    content = {"model": results.model, "method": results.method, "data_sets": sets, "mean": mean, "failed": results.failed}
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _title(results: Results) -> str:
    return f"{results.model}, {results.method}"


def _rows(results: Results) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [_HEAD]
    for one in results.done:
        before, after = one.values
        own = comparison(one.dataset.runs[1])
        rows.append([one.name, str(one.dataset.queries), one.report.main, f"{before:.4f}", f"{after:.4f}", *own])
    for measure, count, before, after in results.means():
        name = f"mean of {count} of {results.total}" if count < results.total else f"mean of {count}"
        rows.append([name, "", measure, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f} ", ""])
    return rows


def _notes(results: Results) -> list[str]:
    """The notes below the table; the number of judged queries is in it."""
    notes = []
    for one in results.done:
        first, *others = dataset_notes(one.dataset)
        notes += [first, *others] if one.dataset.without_relevant else others
    stages = dict.fromkeys(one.first_stage for one in results.done)
    for stage in stages:
        names = ", ".join(one.name for one in results.done if one.first_stage == stage)
        notes.append(f"first stage: {stage}{f' ({names})' if len(stages) > 1 else ''}")
    if results.done:
        report = results.done[0].report
        several = f", not corrected for {len(results.done)} comparisons" if len(results.done) > 1 else ""
        notes.append(f"Δ and p: against the first stage, {TESTS[report.test]}; * p < {report.alpha:g}{several}")
    return [*notes, *(f"{name} failed: {reason}" for name, reason in results.failed.items())]
