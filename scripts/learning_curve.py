"""The reward curve of a run's report (`r0 report RUN`) as an SVG: every training step, and held-out tasks with 95 % intervals.

    .venv/bin/python scripts/learning_curve.py RUN [OUT.svg]        # e.g. runs/demo docs/images/learning-curve.svg
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

from r0.errors import UserError
from r0.report.chart import Chart, Point, Series, smoothed
from r0.report.curves import charts
from r0.report.heldout import read_evaluations
from r0.report.run import open_runs

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 40, 48

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #555 }
  .title { font-size: 14px; font-weight: 600 }
  .grid { stroke: #bbb; stroke-width: 0.5; opacity: 0.6 }
  .step { fill: #3f6fb5; opacity: 0.45 }
  .mean { fill: none; stroke: #3f6fb5; stroke-width: 2.5 }
  .heldout { fill: #d9822b }
  .interval { stroke: #d9822b; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) { text { fill: #aaa } .grid { stroke: #666 } }
"""


def reward_chart(folder: str) -> tuple[str, Chart]:
    """The run's name, and its chart of rewards as the report has it.

    Raises:
        UserError: it is no run, a file of it is damaged, or it has no rewards.
    """
    (run,) = open_runs([folder])
    shown, _ = charts([run], {run.name: read_evaluations(run)})
    chart = next((one for one in shown if one.title == "Reward"), None)
    if chart is None or chart.series[0].kind != "noisy":
        raise UserError(f"{folder} has no training step in metrics.jsonl; give a run of stage_a, stage_b or demo")
    return run.name, chart


def ticks(low: float, high: float) -> list[float]:
    """Round values from ``low`` to ``high``, four to nine of them."""
    spacing = next(step for step in (0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / step <= 8)
    first = int(low / spacing) - 1
    return [i * spacing for i in range(first, first + 12) if low <= i * spacing <= high + 1e-9]


def draw(name: str, chart: Chart) -> str:
    """The SVG."""
    training, *heldout = chart.series
    points = [point for one in chart.series for point in one.points]
    bounds = [value for one in heldout for interval in one.intervals if interval for value in interval]
    rewards = [reward for _, reward in points] + bounds
    margin = 0.05 * (max(rewards) - min(rewards) or 1.0)
    x0, x1 = min(0, *(step for step, _ in points)), max(step for step, _ in points)
    y0, y1 = min(rewards) - margin, max(rewards) + margin

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - x0) / (x1 - x0 or 1)

    def y(reward: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (reward - y0) / (y1 - y0)

    def held_out(one: Series) -> list[str]:
        marks = []
        for (step, reward), interval in zip(one.points, one.intervals or [None] * len(one.points), strict=True):
            if interval:
                low, high = (f"{y(bound):.1f}" for bound in interval)
                marks.append(f'<line class="interval" x1="{x(step):.1f}" x2="{x(step):.1f}" y1="{low}" y2="{high}"/>')
            before = step < (x0 + x1) / 2
            place = f'x="{x(step) + (10 if before else -10):.1f}" y="{y(reward) + (4 if before else 22):.1f}"'
            marks.append(f'<circle class="heldout" cx="{x(step):.1f}" cy="{y(reward):.1f}" r="4"/>')
            marks.append(f'<text {place} text-anchor="{"start" if before else "end"}">{escape(one.name)}: {reward:.2f}</text>')
        return marks

    title = f"{name}: reward over {len(training.points)} steps"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += [f"<style>{STYLE}</style>", f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>']
    for value in ticks(y0, y1):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    for step in ticks(x0, x1):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step:g}</text>')
    parts += [f'<circle class="step" cx="{x(step):.1f}" cy="{y(reward):.1f}" r="2.5"/>' for step, reward in training.points]
    means = smoothed([reward for _, reward in training.points])
    curve: list[Point] = [(step, mean) for (step, _), mean in zip(training.points, means, strict=True)]
    parts.append('<path class="mean" d="M' + " L".join(f"{x(step):.1f},{y(reward):.1f}" for step, reward in curve) + '"/>')
    parts += [mark for one in heldout if "greedy" not in one.name for mark in held_out(one)]
    legend = "dots: training steps; line: their running mean"
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{legend}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">training step</text></svg>')
    return "\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    """Write the SVG beside the record, or to the file that is named; returns the exit code."""
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        name, chart = reward_chart(arguments[0])
    except UserError as error:
        print(f"learning_curve: {error}", file=sys.stderr)
        return 2
    out = Path(arguments[1]) if len(arguments) == 2 else Path(arguments[0]) / "learning-curve.svg"
    out.write_text(draw(name, chart), encoding="utf-8")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
