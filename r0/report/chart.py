"""A chart as data, and as the JSON that plotly.js draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from r0.report.numbers import short

# Distinguishable with any kind of colour vision, and on light and dark paper alike (contrast 3:1 or more).
COLORS = ("#3f7fd1", "#cf7a1c", "#2f9468", "#9a63cc", "#d1495b", "#1f93a3", "#8a7a2e", "#7c8794")
MOST_POINTS = 500  # of a curve; longer ones are drawn as means of neighbouring steps

Point = tuple[float, float]
Kind = Literal["line", "noisy", "points", "area", "bar"]


@dataclass(frozen=True)
class Series:
    """One curve. ``noisy``: its points are drawn pale, a centred mean over them."""

    name: str
    points: Sequence[Point]
    kind: Kind = "line"
    color: int = 0
    intervals: Sequence[tuple[float, float] | None] = ()  # (low, high) of each point, where it is known
    labels: Sequence[str] = ()  # of each point, shown when it is pointed at
    symbol: Literal["circle", "diamond"] = "circle"


@dataclass(frozen=True)
class Chart:
    """Series over one axis."""

    title: str
    series: Sequence[Series]
    note: str = ""
    x: str = "step"
    y: str = ""
    layout: dict[str, Any] = field(default_factory=dict)  # what differs from other charts

    def figure(self) -> dict[str, Any]:
        """``{"data": …, "layout": …}`` for plotly.js. Colours of paper and text are the page's."""
        shown = len([one for one in self.series if one.name]) > 1
        layout = {
            "xaxis": {"title": {"text": self.x}, "zeroline": False},
            "yaxis": {"title": {"text": self.y}, "zeroline": False, "automargin": True},
            "showlegend": shown,
            "barmode": "stack",
        }
        return {"data": [trace for one in self.series for trace in _traces(one)], "layout": {**layout, **self.layout}}

    def summary(self) -> str:
        """The chart in words, for those who do not see it: the first and the last value of each curve."""
        return "; ".join(_summary(one) for one in self.series if one.points)


def _summary(series: Series) -> str:
    first, last = series.points[0], series.points[-1]
    if series.kind == "bar" or len(series.points) == 1:
        return f"{series.name}: {len(series.points)} values"
    return f"{series.name}: {short(first[1])} at {short(first[0])}, {short(last[1])} at {short(last[0])}"


def _traces(series: Series) -> list[dict[str, Any]]:
    points = thinned(series.points) if series.kind in ("line", "noisy", "area") else list(series.points)
    color = COLORS[series.color % len(COLORS)]
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    base: dict[str, Any] = {"name": series.name, "x": xs, "y": ys, "hovertemplate": "%{y:.4~g}"}
    if series.labels:
        base |= {"hovertext": list(series.labels), "hovertemplate": "%{hovertext}<extra></extra>"}
    if series.kind == "bar":
        return [{**base, "type": "bar", "marker": {"color": color}}]
    base |= {"type": "scatter", "mode": "lines", "line": {"color": color, "width": 2}}
    if series.kind == "area":
        return [{**base, "stackgroup": "one", "line": {"color": color, "width": 0.5}, "hovertemplate": "%{y:.3~g} s"}]
    if series.kind == "points":
        marks: dict[str, Any] = {"marker": {"color": color, "size": 8, "symbol": series.symbol}}
        mode = "markers" if len(points) < 3 else "lines+markers"
        marks |= {"mode": mode, "line": {"color": color, "width": 1.5, "dash": "dot"}}
        return [{**base, **marks, **_bars(series, color)}]
    if series.kind == "noisy" and len(points) > 4:
        pale = {**base, "opacity": 0.3, "line": {"color": color, "width": 1}, "showlegend": False, "hoverinfo": "skip"}
        return [pale, {**base, "y": smoothed(ys)}]
    return [{**base, "mode": "lines+markers" if len(points) < 5 else "lines", "marker": {"color": color, "size": 6}}]


def _bars(series: Series, color: str) -> dict[str, Any]:
    if not any(series.intervals):
        return {}
    both = list(zip(series.points, series.intervals, strict=True))
    above = [known[1] - point[1] if known else 0.0 for point, known in both]
    below = [point[1] - known[0] if known else 0.0 for point, known in both]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": color, "thickness": 1.5, "width": 4}
    return {"error_y": bars}


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` points, each the mean of equally many neighbours."""
    size = -(-len(points) // most) if points else 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]


def smoothed(values: Sequence[float]) -> list[float]:
    """The centred mean over a twentieth of the values, at least three; the window shrinks at both ends, so no curve lags."""
    half = max(1, len(values) // 40)
    reach = [min(half, at, len(values) - 1 - at) for at in range(len(values))]
    return [fmean(values[at - some : at + some + 1]) for at, some in enumerate(reach)]
