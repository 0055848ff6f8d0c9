"""Formats a report as text, Markdown, CSV or JSON, and its measures per query as JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from r0.evaluation.identical_ids import said
from r0.evaluation.report import DatasetReport, Report, RunReport

TESTS = {"t": "two-sided paired t-test", "permutation": "two-sided paired permutation test"}


def render(report: Report, form: str) -> str:
    """The report in one of the four formats, ending with a line break."""
    return {"text": _text, "markdown": _markdown, "csv": _csv, "json": _json}[form](report)


def per_query(report: Report) -> str:
    """One JSON line per data set, run and judged query: its measures, and whether the query is missing from the run."""
    lines = []
    for dataset in report.datasets:
        for run in dataset.runs:
            measured = run.measured
            if measured is None:
                continue
            for at, query in enumerate(measured.query_ids):
                row: dict[str, object] = {"dataset": dataset.name} if dataset.name else {}
                row |= {"run": run.name, "query_id": query}
                row |= {name: float(measured.values[name][at]) for name in report.measures}
                lines.append(json.dumps(row | {"missing": query in measured.missing}, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def _blocks(report: Report) -> list[tuple[str, Sequence[RunReport]]]:
    """(title, rows) of each table."""
    blocks: list[tuple[str, Sequence[RunReport]]] = [(dataset.name, dataset.runs) for dataset in report.datasets]
    return [*blocks, (f"mean of {len(report.datasets)} data sets", report.mean)] if report.mean else blocks


def _text(report: Report) -> str:
    lines: list[str] = []
    for title, cells in _tables(report):
        lines += [*([title] if title else []), *text_rows(cells), ""]
    return "\n".join([*lines, *_notes(report), ""])


def text_rows(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, header first; all columns but the first are flush right."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells)
    return ["  ".join(row).rstrip() for row in padded]


def _markdown(report: Report) -> str:
    lines: list[str] = []
    for title, cells in _tables(report):
        lines += [f"**{escaped(title)}**", ""] if title else []
        lines += [*markdown_rows(cells), ""]
    return "\n".join([*lines, *(f"- {escaped(note)}" for note in _notes(report)), ""])


def markdown_rows(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, header first."""
    return [_piped(cells[0]), "|".join(["", "---", *(["---:"] * (len(cells[0]) - 1)), ""]), *map(_piped, cells[1:])]


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"


def escaped(text: str) -> str:
    """Plain text in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\|*_`<[" else letter for letter in text)


def _tables(report: Report) -> list[tuple[str, list[list[str]]]]:
    """(title, rows of cells, header first) of each table; with several data sets the last table shows them side by side."""
    head = ["run", *report.measures, f"Δ {report.main}", "p"]
    tables = [(title, [head, *(_cells(run, report.measures) for run in runs)]) for title, runs in _blocks(report)]
    if report.mean:
        rows = [["run", *(dataset.name for dataset in report.datasets), "mean"]]
        for at, mean in enumerate(report.mean):
            means = [dataset.runs[at] for dataset in report.datasets]
            marked = [f"{run.means[report.main]:.4f}{'*' if run.significant else ' '}" for run in means]
            rows.append([_name(mean), *marked, f"{mean.means[report.main]:.4f}"])
        tables.append((f"{report.main} by data set", rows))
    return tables


def _cells(run: RunReport, measures: Sequence[str]) -> list[str]:
    return [_name(run), *(f"{run.means[name]:.4f}" for name in measures), *comparison(run)]


def comparison(run: RunReport) -> tuple[str, str]:
    """A run's difference from the first stage, marked if it is significant, and the p-value; empty where there is none."""
    difference = "" if run.difference is None else f"{run.difference:+.4f}{'*' if run.significant else ' '}"
    return difference, "" if run.p_value is None else "<0.0001" if run.p_value < 0.0001 else f"{run.p_value:.4f}"


def _name(run: RunReport) -> str:
    return f"{run.name} (first stage)" if run.first_stage else run.name


def _notes(report: Report) -> list[str]:
    """The notes below the table."""
    notes = []
    for dataset in report.datasets:
        notes += dataset_notes(dataset)
    if report.relevance_level > 1:
        notes.append(f"relevant: grade {report.relevance_level} or higher, except for nDCG, which uses all grades")
    comparisons = len(report.datasets[0].runs) - 1
    if comparisons:
        several = f", not corrected for {comparisons} comparisons" if comparisons > 1 else ""
        notes.append(f"Δ and p: {report.main} against the first stage, {TESTS[report.test]}; * p < {report.alpha:g}{several}")
    return notes


def dataset_notes(dataset: DatasetReport) -> list[str]:
    """What a reader must know of the means on a data set: of how many queries, and what was missing, ignored or dropped."""
    where = f"{dataset.name}: " if dataset.name else ""
    notes = [f"{where}means over {dataset.queries} judged {'query' if dataset.queries == 1 else 'queries'}"]
    if dataset.without_relevant:
        notes[0] += f", {dataset.without_relevant} of them without any relevant document (0 for every run)"
    for run in dataset.runs:
        measured = run.measured
        if measured is not None and measured.missing:
            notes.append(f"{where}{run.name} lacks {len(measured.missing)} judged queries; they count as 0")
        if measured is not None and measured.unjudged:
            notes.append(f"{where}{run.name} has {measured.unjudged} queries without judgements; they are ignored")
        if run.excluded:
            notes.append(f"{where}{run.excluded} excluded documents were dropped from {run.name}")
        if run.identical:
            notes.append(f"{where}{run.name}: {said(run.identical)}")
    return notes


def _csv(report: Report) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    extra = ("difference", "p_value", "significant", "queries", "missing", "unjudged", "excluded", "identical")
    writer.writerow(["dataset", "run", "first_stage", *report.measures, *extra])
    for dataset in report.datasets:
        for run in dataset.runs:
            row = record(run, dataset.queries)
            values = [row.get(key) for key in extra]
            writer.writerow([dataset.name, run.name, _flag(run.first_stage), *run.means.values(), *map(_flag, values)])
    for run in report.mean:
        writer.writerow(["mean", run.name, _flag(run.first_stage), *run.means.values(), run.difference, *[""] * (len(extra) - 1)])
    return out.getvalue()


def _flag(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _json(report: Report) -> str:
    datasets = [
        {
            "dataset": dataset.name,
            "queries": dataset.queries,
            "without_relevant": dataset.without_relevant,
            "runs": [record(run, dataset.queries) for run in dataset.runs],
        }
        for dataset in report.datasets
    ]
    mean = [record(run, None) for run in report.mean]
    content = {"test": report.test, "alpha": report.alpha, "datasets": datasets, "mean": mean}
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def record(run: RunReport, queries: int | None) -> dict[str, object]:
    """The figures of a run, for JSON."""
    row: dict[str, object] = {"run": run.name, "first_stage": run.first_stage, "measures": run.means}
    row["difference"] = run.difference
    if run.measured is not None:
        row |= {"p_value": run.p_value, "significant": run.significant, "queries": queries, "missing": len(run.measured.missing)}
        row |= {"unjudged": run.measured.unjudged, "excluded": run.excluded, "identical": run.identical}
    return row
