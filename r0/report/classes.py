"""Calibration and confusion of stage C and esci: probabilities and classes against the labels, before and after."""

from __future__ import annotations

from dataclasses import dataclass

from r0.report.chart import Chart, Series
from r0.report.run import Run
from r0.runs.calibration import FOLDER as HELDOUT
from r0.runs.calibration import Calibration, calibration_error, calibration_files, read_calibration

SAYS = {
    "stage_c": ("P(yes) = σ(score)", "mean label, scaled to 0…1"),
    "esci": ("probability of the predicted class", "share of right predictions"),
}


@dataclass(frozen=True)
class Confusion:
    """A table of counts: a row for each label, a column for each prediction, with each count's share of its row."""

    title: str
    predictions: tuple[str, ...]
    rows: list[tuple[str, list[tuple[int, float]]]]


@dataclass(frozen=True)
class Classes:
    """Of one run: the calibration curve, and a table before and after."""

    run: str
    chart: Chart
    tables: list[Confusion]


def classes(run: Run) -> Classes | None:
    """None if the run has stored no such evaluation.

    Raises:
        UserError: a file is damaged.
    """
    stored = calibration_files(run.path / HELDOUT)
    if not stored:
        return None
    steps = sorted({min(stored), max(stored)})
    found = {step: read_calibration(stored[step]) for step in steps}
    x, y = SAYS.get(run.marker.command, ("probability", "mean label"))
    series = [Series("perfect", [(0.0, 0.0), (1.0, 1.0)], "line", 7)]
    for color, (step, one) in enumerate(found.items()):
        points = [(probability, label) for _, probability, label in one.bins]
        labels = [f"step {step}: {count:g} pairs, probability {p:.3f}, label {label:.3f}" for count, p, label in one.bins]
        series.append(Series(f"step {step} (ECE {calibration_error(one.bins):.3f})", points, "points", color, labels=labels))
    axis = {"range": [-0.02, 1.02], "zeroline": False}
    layout = {"xaxis": {**axis, "title": {"text": x}}, "yaxis": {**axis, "title": {"text": y}, "automargin": True},
              "hovermode": "closest"}  # fmt: skip
    note = "Held-out pairs in ten bins of equal width; ECE is the mean distance from the diagonal."
    chart = Chart(f"Calibration: {run.name}", series, note, x=x, y=y, layout=layout)
    return Classes(run.name, chart, [_table(f"{run.name}, step {step}", one) for step, one in found.items()])


def _table(title: str, found: Calibration) -> Confusion:
    rows = []
    for label, counts in zip(found.labels, found.confusion, strict=True):
        whole = sum(counts)
        rows.append((label, [(count, count / whole if whole else 0.0) for count in counts]))
    return Confusion(title, found.predictions, rows)
