"""The page: everything that the other modules found, as one HTML file.

Texts of documents and models are hostile input. The template escapes what it shows; what the script shows travels as JSON in
which no ``<`` occurs, and is put into the page as text. Besides, the page's policy allows no script but its own, and no network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from r0 import __version__
from r0.errors import UserError
from r0.report import curves, settings
from r0.report.chart import COLORS, Chart
from r0.report.classes import classes
from r0.report.heldout import MODES, Evaluations, read_evaluations, rows
from r0.report.numbers import short, signed, visible
from r0.report.rankings import Rankings, read_rankings
from r0.report.run import Run
from r0.report.samples import read_samples, violations
from r0.storage.files import refuse_inputs, write_atomic, writing

NAME = "report.html"


def default_output(runs: Sequence[Run]) -> Path:
    """In the run directory; of several runs in the current folder."""
    return runs[0].path / NAME if len(runs) == 1 and runs[0].path.is_dir() else Path(NAME)


def write_page(runs: Sequence[Run], output: Path, each: int = 4, qrels: str | None = None) -> None:
    """Write the page of the runs. ``each``: worst and best completions of a step; ``qrels``: judgements of rerank runs.

    Raises:
        UserError: a file of a run is damaged, or the page cannot be written.
    """
    if output.is_dir():
        raise UserError(f"output: {output} is a folder; name a file, such as {output / NAME}")
    refuse_inputs(output, [*(run.path for run in runs), *(Path(path).expanduser() for path in filter(None, [qrels]))])
    content = page(runs, each, qrels).encode()
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, content)


def page(runs: Sequence[Run], each: int = 4, qrels: str | None = None) -> str:
    """The HTML."""
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    evaluations = {run.name: read_evaluations(run) for run in runs}
    samples = [read_samples(run, number, each) for number, run in enumerate(runs)]
    first = next((run for run in runs if run.path.is_file()), None)
    rankings = [found for number, run in enumerate(runs) if (found := read_rankings(run, number, qrels, first)) is not None]
    items = [item for one in samples for item in one.items]
    queries = [item for one in rankings for item in one.items]
    drawn = Drawn()
    main, others = curves.charts(runs, evaluations)
    seconds = [spent for run in runs if (spent := curves.seconds(run)) is not None]
    tables = [table for run in runs if (table := classes(run)) is not None]
    folder = Path(str(files("r0"))) / "assets" / "report"
    script = (folder / "report.js").read_text(encoding="utf-8")
    context = {
        "title": " · ".join(run.name for run in runs),
        "version": __version__,
        "runs": [{"name": run.name, "facts": settings.facts(run)} for run in runs],
        "heldout": [_heldout(run, evaluations[run.name]) for run in runs if run.evaluations],
        "main": [drawn.add(one) for one in main],
        "others": [drawn.add(one) for one in others],
        "seconds": [{"run": one.run, "chart": drawn.add(one.chart), "rows": one.rows} for one in seconds],
        "timings": [drawn.add(one) for one in curves.other_timings(runs)],
        "classes": [{"chart": drawn.add(one.chart), "tables": one.tables} for one in tables],
        "rankings": [
            {"run": one.run, "figures": _figures(one), "chart": drawn.add(one.chart) if one.chart else None} for one in rankings
        ],
        "summaries": [{"run": run.name, "rows": facts} for run in runs if (facts := settings.summary(run))],
        "samples": len(items),
        "queries": len(queries),
        "notes": [visible(note) for one in samples for note in one.notes],
        "query_notes": [visible(note) for one in rankings for note in one.notes],
        "violations": violations(items),
        "differences": settings.differences(runs) if len(runs) > 1 else [],
        "settings": settings.table(runs),
        "css": (folder / "report.css").read_text(encoding="utf-8"),
        "data": embedded({
            "charts": drawn.figures, "colors": COLORS, "runs": [run.name for run in runs], "samples": items, "queries": queries,
        }),
        "script": script,
        "plotly": get_plotlyjs(),
    }
    context["policy"] = _policy(context["plotly"], script)
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(context)


class Drawn:
    """The charts of the page: the template gets title, note and number, the script the figures by number."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []

    def add(self, chart: Chart) -> dict[str, Any]:
        """What the template needs of a chart."""
        self.figures.append(chart.figure())
        return {"number": len(self.figures) - 1, "title": chart.title, "note": chart.note, "summary": chart.summary()}


def embedded(content: object) -> str:
    """JSON that can stand in a ``<script>``: without ``<``, so that nothing in it ends the element or opens a comment.

    NaN, which JSON does not have, is null.
    """
    return json.dumps(_finite(content), ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if content == content and abs(content) != float("inf") else None
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def _policy(*scripts: str) -> str:
    """The page's Content-Security-Policy: these scripts and no others, styles in the page, nothing from elsewhere."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {allowed}; {rest}"


def _heldout(run: Run, evaluations: Evaluations) -> dict[str, Any]:
    """The held-out table of a run: first the figures with intervals, then all others."""
    found = [
        {
            "mode": row.mode,
            "name": row.name.replace("_", " "),
            "before": _with_interval(row.before),
            "after": _with_interval(row.after),
            "change": _with_interval(row.change, signed),
            "sure": row.change is not None and row.change.low is not None and (row.change.low > 0 or (row.change.high or 0) < 0),
            "known": row.before.low is not None,
        }
        for row in rows(run, evaluations)
    ]
    first, last = (int(run.evaluations[at]["step"] or 0) for at in (0, -1))
    known = [row for row in found if row["known"]]
    modes = [mode for mode in (*MODES, "") if any(row["mode"] == mode for row in known)]
    return {
        "run": run.name, "first": first, "last": last, "tasks": evaluations.tasks, "modes": modes,
        "known": known, "others": [row for row in found if not row["known"]],
    }  # fmt: skip


def _with_interval(estimate: Any, form: Any = short) -> tuple[str, str]:
    """A figure and its interval, as texts."""
    if estimate is None:
        return "–", ""
    if estimate.low is None:
        return form(estimate.value), ""
    return form(estimate.value), f"{form(estimate.low)} … {form(estimate.high)}"


def _figures(rankings: Rankings) -> list[tuple[str, tuple[str, str]]]:
    """First stage, run and change, with intervals."""
    if rankings.figures is None:
        return []
    before, after, change = rankings.figures
    return [
        ("first stage", _with_interval(before)), ("reranked", _with_interval(after)), ("change", _with_interval(change, signed)),
    ]  # fmt: skip
