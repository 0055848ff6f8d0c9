"""The learning curve of a run as an SVG: the mean reward of every training step, and held-out rewards where they were measured.

    python scripts/learning_curve.py RUN [OUT.svg]        # e.g. runs/demo docs/images/learning-curve.svg

Everything in the picture is read from RUN/metrics.jsonl. Standard library only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 40, 48

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #555 }
  .title { font-size: 14px; font-weight: 600 }
  .grid { stroke: #bbb; stroke-width: 0.5; opacity: 0.6 }
  .step { fill: #3f6fb5; opacity: 0.45 }
  .mean { fill: none; stroke: #3f6fb5; stroke-width: 2.5 }
  .heldout { fill: #d9822b }
  .join { stroke: #d9822b; stroke-width: 1.5; stroke-dasharray: 5 4; fill: none }
  @media (prefers-color-scheme: dark) { text { fill: #aaa } .grid { stroke: #666 } }
"""

Points = list[tuple[float, float]]


def read(run: Path) -> tuple[Points, Points]:
    """(step, reward) of the training steps and of the held-out evaluations."""
    training: Points = []
    heldout: Points = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        if one.get("reward") is not None:
            training.append((one["step"], one["reward"]))
        if one.get("heldout/sampled/reward") is not None:
            heldout.append((one["step"], one["heldout/sampled/reward"]))
    return training, heldout


def smoothed(points: Points) -> Points:
    """Each step with the mean of itself and its two neighbours, so that the line does not lag behind the steps."""
    near = [points[max(0, i - 1) : i + 2] for i in range(len(points))]
    return [(step, sum(value for _, value in some) / len(some)) for (step, _), some in zip(points, near, strict=True)]


def ticks(low: float, high: float) -> list[float]:
    """Round values from ``low`` to ``high``, four to nine of them."""
    spacing = next(step for step in (0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / step <= 8)
    first = int(low / spacing) - 1
    return [i * spacing for i in range(first, first + 12) if low <= i * spacing <= high + 1e-9]


def draw(name: str, training: Points, heldout: Points) -> str:
    """The SVG."""
    steps = [step for step, _ in training + heldout]
    rewards = [reward for _, reward in training + heldout]
    margin = 0.05 * (max(rewards) - min(rewards) or 1.0)
    x0, x1 = min(0, *steps), max(steps)
    y0, y1 = min(rewards) - margin, max(rewards) + margin

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - x0) / (x1 - x0 or 1)

    def y(reward: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (reward - y0) / (y1 - y0)

    def path(points: Points) -> str:
        return "M" + " L".join(f"{x(step):.1f},{y(reward):.1f}" for step, reward in points)

    title = f"{name}: reward over {len(training)} steps"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += [f"<style>{STYLE}</style>", f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>']
    for value in ticks(y0, y1):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    for step in ticks(x0, x1):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step:g}</text>')
    parts += [f'<circle class="step" cx="{x(step):.1f}" cy="{y(reward):.1f}" r="2.5"/>' for step, reward in training]
    parts.append(f'<path class="mean" d="{path(smoothed(training))}"/>')
    if len(heldout) > 2:  # between two points a line would claim a path that nobody measured
        parts.append(f'<path class="join" d="{path(heldout)}"/>')
    for step, reward in heldout:
        before = step < (x0 + x1) / 2
        parts.append(f'<circle class="heldout" cx="{x(step):.1f}" cy="{y(reward):.1f}" r="5"/>')
        place = f'x="{x(step) + (10 if before else -10):.1f}" y="{y(reward) + (4 if before else -12):.1f}"'
        parts.append(f'<text {place} text-anchor="{"start" if before else "end"}">held out: {reward:.2f}</text>')
    legend = "dots: training steps; line: mean of three steps"
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{legend}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">training step</text></svg>')
    return "\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    """Write the SVG beside the record, or to the file that is named; returns the exit code."""
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    run = Path(arguments[0])
    try:
        training, heldout = read(run)
    except OSError as error:
        print(f"learning_curve: {error.filename}: {error.strerror}; give a run directory", file=sys.stderr)
        return 2
    if not training:
        print(
            f"learning_curve: {run} has no training step in metrics.jsonl; give a run of stage_a, stage_b or demo",
            file=sys.stderr,
        )
        return 2
    out = Path(arguments[1]) if len(arguments) == 2 else run / "learning-curve.svg"
    out.write_text(draw(run.name, training, heldout), encoding="utf-8")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
