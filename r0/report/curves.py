"""The curves of a training run's record, and where its seconds went.

One run has a chart for each family of figures; several runs have one for each figure, with a curve for each run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from r0.report.chart import Chart, Point, Series
from r0.report.heldout import MODES, Evaluations
from r0.report.numbers import short
from r0.report.run import Line, Run

IN_STEP = ("sample", "reward", "learn", "sync")  # parts of a step, in their order
AFTER_STEP = ("evaluate", "checkpoint")
NO_PART = ("total", "sampled_tokens_per_s")


@dataclass(frozen=True)
class Family:
    """Figures of one chart. A name that ends in / stands for all figures that begin with it. The held-out points of the first
    figure are added."""

    title: str
    names: tuple[str, ...]
    note: str = ""


FAMILIES = (
    Family("Reward", ("reward",), "Mean total of a step's completions; points: held-out tasks, with 95 % intervals."),
    Family("Reward by component", ("reward/",), "Means of the components, which add up to the reward."),
    Family("Loss", ("loss",)),
    Family("Right answers", ("accuracy", "accuracy_well_formed"), "Share of answers that equal the label."),
    Family("nDCG@10", ("ndcg@10", "ndcg@10_given"), "Lists as the model orders them, and as they were given."),
    Family("Format", ("format_rate", "well_formed_rate", "cut_share")),
    Family("Violations", ("violation/",), "Share of completions with each violation."),
    Family("Length of thoughts", ("think_tokens", "completion_tokens"), "Mean tokens of a thought, and of a completion."),
    Family("Groups without spread", ("zero_spread_share",), "Share of prompts whose completions all have the same reward."),
    Family("Gap", ("gap",), "Mean difference of the log-probabilities of engine and learner, in nats."),
    Family("KL", ("kl",)),
    Family("Entropy", ("entropy",)),
    Family("Gradient norm", ("grad_norm",)),
)


def charts(runs: Sequence[Run], evaluations: Mapping[str, Evaluations]) -> tuple[list[Chart], list[Chart]]:
    """The charts that are shown, and those of all other figures. ``evaluations``: of each run, by its name."""
    recorded = list(dict.fromkeys(name for run in runs for line in run.steps for name in line if name != "step"))
    taken: set[str] = set()
    main: list[Chart] = []
    for family in FAMILIES:
        found = [name for one in family.names for name in _matching(one, recorded)]
        taken |= set(found)
        main += _drawn(family.title, family.note, found or list(family.names), runs, evaluations, family.names[0])
    others = [name for name in sorted(recorded) if name not in taken]
    return main, [chart for name in others for chart in _drawn(name, "", [name], runs, evaluations, name)]


def _matching(name: str, recorded: Sequence[str]) -> list[str]:
    return [one for one in recorded if one == name or (name.endswith("/") and one.startswith(name))]


def _drawn(
    title: str, note: str, names: Sequence[str], runs: Sequence[Run], evaluations: Mapping[str, Evaluations], held: str
) -> Iterator[Chart]:
    """A chart of these figures; one for each of them if there are several runs. ``held``: the figure with held-out points."""
    if len(runs) == 1:
        series = list(_series(runs[0], names, evaluations, held))
        if series:
            yield Chart(title, series, note)
        return
    for name in names:
        series = [one for at, run in enumerate(runs) for one in _series(run, [name], evaluations, held, run.name, at)]
        if series:
            yield Chart(title if len(names) == 1 else f"{title}: {_label(name)}", series, note)


def _series(
    run: Run, names: Sequence[str], evaluations: Mapping[str, Evaluations], held: str, owner: str = "", color: int = 0
) -> Iterator[Series]:
    """The curves of figures of a run, and the held-out points of the figure ``held``. ``owner``: the run's name, if there are
    several, which have one ``color`` each."""
    for at, name in enumerate(names):
        if points := _points(run.steps, name):
            yield Series(owner or _label(name), points, "noisy", color + at)
    for place, mode in enumerate((*MODES, "")):
        full = f"heldout/{mode}/{held}" if mode else f"heldout/{held}"
        if held not in names or not (points := _points(run.evaluations, full)):
            continue
        intervals = evaluations[run.name].intervals(mode, held, [int(step) for step, _ in points])
        label = ", ".join(filter(None, (owner, "held out", mode)))
        symbol: Literal["circle", "diamond"] = "diamond" if mode == "sampled" else "circle"
        yield Series(label, points, "points", color if owner else len(names) + place, intervals, symbol=symbol)


def _label(name: str) -> str:
    return name.rpartition("/")[2].replace("_", " ")


def _points(lines: Sequence[Line], name: str) -> list[Point]:
    return [(step, value) for line in lines if (value := line.get(name)) is not None and (step := line["step"]) is not None]


# --- seconds


@dataclass(frozen=True)
class Seconds:
    """Where the seconds of a run went: a chart over the steps, and a row for each part (name, sum, share, median of a step)."""

    run: str
    chart: Chart
    rows: list[tuple[str, str, str, str]]


def seconds(run: Run) -> Seconds | None:
    """None if no seconds were recorded."""
    steps = [line for line in run.timings if line.get("total") or line.get("learn")]
    if not steps:
        return None
    parts: dict[str, list[Point]] = {}
    overlap = False
    for line in run.timings:
        step = float(line["step"] or 0)
        spent = {name: value for name, value in line.items() if _is_part(name) and value is not None}
        inside = sum(value for name, value in spent.items() if name not in AFTER_STEP)
        if (total := line.get("total")) is not None:
            spent["other"] = max(0.0, total - inside)
            overlap |= inside > 1.01 * total
        for name, value in spent.items():
            parts.setdefault(name, []).append((step, value))
    names = sorted(parts, key=_place)
    series = [Series(name, _whole(parts[name], steps), "area", color) for color, name in enumerate(names)
              if name not in AFTER_STEP]  # fmt: skip
    whole = sum(value for points in parts.values() for _, value in points)
    rows = []
    for name in names:
        values = [value for _, value in parts[name]]
        share = sum(values) / whole if whole else 0.0
        rows.append((name, f"{sum(values):.1f}", f"{share:.1%}", f"{short(median(values))} ({len(values)})"))
    note = "Sampling ahead overlaps with learning, so the parts add up to more than the step." if overlap else ""
    return Seconds(run.name, Chart(f"Seconds of a step: {run.name}", series, note, y="seconds"), rows)


def other_timings(runs: Sequence[Run]) -> list[Chart]:
    """Tokens per second and memory of the processes."""
    speed = [Series(run.name, points, "noisy", color) for color, run in enumerate(runs)
             if (points := _points(run.timings, "sampled_tokens_per_s"))]  # fmt: skip
    found = [Chart("Sampled tokens per second", speed)] if speed else []
    for run in runs:
        names = sorted({name for line in run.timings for name in line if name.startswith("rss_mb/")})
        memory = [Series(_label(name), _points(run.timings, name), "line", color) for color, name in enumerate(names)]
        found += [Chart(f"Memory: {run.name}", memory, "Resident memory of the processes on the driver's machine.", y="MB")] * (
            bool(memory)
        )
    return found


def _is_part(name: str) -> bool:
    return name != "step" and name not in NO_PART and "/" not in name


def _place(name: str) -> tuple[int, str]:
    order = (*IN_STEP, "other", *AFTER_STEP)
    return (order.index(name) if name in order else len(IN_STEP), name)


def _whole(points: Sequence[Point], lines: Sequence[Line]) -> list[Point]:
    """The points with 0 where a step has no such part: areas are stacked step by step."""
    known = dict(points)
    return [(step, known.get(step, 0.0)) for step in (float(line["step"] or 0) for line in lines)]
