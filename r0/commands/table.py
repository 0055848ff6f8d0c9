"""A table of held-out metrics before and after a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from r0.runs import heldout_lines

Rows = Sequence[tuple[str, str]]  # (name of a held-out figure, title of its row)


def before_and_after(output: Path, rows: Rows, before: str = "before", after: str = "after RL", every: int = 1) -> str:
    """The first and the last held-out evaluation in the record of the run in ``output``; missing metrics are omitted.

    ``every``: the run's ``eval.every``, if it has that key.
    """
    lines = heldout_lines(output / "metrics.jsonl")
    if len(lines) < 2:
        reason = "no query is held out; raise heldout_share" if every else "eval.every=0"
        return f"no held-out evaluation was made ({reason})"
    first, last = lines[0], lines[-1]
    shown = [f"{'on held-out tasks':<54} {before:>10} {after:>10} {'change':>8}"]
    for name, title in rows:
        one, two = first.get(f"heldout/{name}"), last.get(f"heldout/{name}")
        if one is not None and two is not None:
            shown.append(f"{title:<54} {one:>10.3f} {two:>10.3f} {two - one:>+8.3f}")
    return "\n".join(shown)
