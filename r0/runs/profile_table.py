"""``profile/table.txt``: where the seconds of a step go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from r0.process.spans import Span
from r0.runs.trace import Track

STEP, OTHER = "total", "other"  # the driver's span of a step; what no part of it accounts for
HEAD = f"{'':<34}{'seconds':>9}{'share':>8}   least … most"


@dataclass(frozen=True)
class StepSeconds:
    """The seconds of a step: by part, which add up to ``total``, and within a part by what workers do there. Of several workers
    that do the same, the seconds are those of the one that took longest."""

    parts: dict[str, float]
    within: dict[tuple[str, str], float]  # (part, "rollout: sample")

    @property
    def total(self) -> float:
        """Of the whole step."""
        return sum(self.parts.values())


def profile_table(tracks: Sequence[Track], first: int) -> str:
    """The table of the recorded steps, of which the first has the number ``first``.

    Its seconds are those of one step, whose length is the median, so that they add up; beside them stand the least and the most
    of all steps. A part that this step does not have, such as an evaluation, has 0.
    """
    steps = step_seconds(tracks)
    if not steps:
        return "no step was recorded"
    chosen = sorted(range(len(steps)), key=lambda place: steps[place].total)[(len(steps) - 1) // 2]
    step = steps[chosen]
    last = first + len(steps) - 1
    title = f"step {first}" if len(steps) == 1 else f"steps {first} to {last}; the seconds are those of step {first + chosen}"
    lines = [f"profile of {title}", HEAD]
    parts = dict.fromkeys(part for one in steps for part in one.parts if part != OTHER)
    within = dict.fromkeys(key for one in steps for key in one.within)
    for part in (*parts, OTHER):
        lines.append(_line(part, chosen, [one.parts.get(part, 0.0) for one in steps], step.total))
        for key in within:
            if key[0] == part:
                lines.append(_line(f"  {key[1]}", chosen, [one.within.get(key, 0.0) for one in steps], step.total))
    return "\n".join([*lines, _line("step", chosen, [one.total for one in steps], step.total)])


def step_seconds(tracks: Sequence[Track]) -> list[StepSeconds]:
    """The seconds of every recorded step. What follows a step (evaluation, checkpoint) is a part of it."""
    driver = next((track for track in tracks if track.index is None), None)
    totals = sorted((span for span in driver.spans if span.name == STEP), key=lambda one: one.start_ns) if driver else []
    if driver is None or not totals:
        return []
    main = [span for span in driver.spans if span.thread == totals[0].thread and span.name != STEP]
    starts = [*(span.start_ns for span in totals), max(span.end_ns for span in driver.spans) + 1]
    found = []
    for total, start, end in zip(totals, starts, starts[1:], strict=False):
        spans = sorted((span for span in main if start <= span.start_ns < end), key=lambda one: one.start_ns)
        parts: defaultdict[str, float] = defaultdict(float)
        inside = 0.0
        for span in spans:
            parts[span.name] += _seconds(span)
            inside += _seconds(span) if span.start_ns < total.end_ns else 0.0
        parts[OTHER] = _seconds(total) - inside
        found.append(StepSeconds(dict(parts), _within(tracks, spans)))
    return found


def _within(tracks: Sequence[Track], parts: Sequence[Span]) -> dict[tuple[str, str], float]:
    """The seconds of what is done while a part lasts, by the slowest of those that do it."""
    longest: defaultdict[tuple[str, str], float] = defaultdict(float)
    for track in tracks:
        mine: defaultdict[tuple[str, str], float] = defaultdict(float)
        for span in sorted(track.spans, key=lambda one: one.start_ns):
            middle = (span.start_ns + span.end_ns) // 2
            part = next((one for one in parts if one.start_ns <= middle <= one.end_ns), None)
            if part is not None and span is not part and span.name != STEP:
                mine[part.name, f"{track.role}: {span.name}"] += _seconds(span)
        for key, seconds in mine.items():
            longest[key] = max(longest[key], seconds)
    return dict(longest)


def _seconds(span: Span) -> float:
    return (span.end_ns - span.start_ns) / 1e9


def _line(name: str, chosen: int, every: Sequence[float], total: float) -> str:
    share = every[chosen] / total if total else 0.0
    return f"{name:<34}{every[chosen]:>9.3f}{share:>8.1%}   {min(every):.3f} … {max(every):.3f}"
