"""The configuration of the runs, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence

from r0.report.numbers import cut
from r0.report.run import Run

PLACE = ("output", "fresh")  # where a run is, not what it is
LONGEST = 2000  # characters of a value


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The keys in which the runs differ, with the value of each run."""
    return [(key, values) for key, values in table(runs) if len(set(values)) > 1 and key not in PLACE]


def table(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Every key, with the value of each run."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [(key, [shown(run.config[key]) if key in run.config else "absent" for run in runs]) for key in keys]


def shown(value: object) -> str:
    """A value as text."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "empty"
    return cut(str(value), LONGEST)


def facts(run: Run) -> list[tuple[str, str]]:
    """What a run is, in a few lines."""
    last = run.steps[-1]["step"] if run.steps else None
    state = "finished" if run.finished else "not finished"
    if run.path.is_file():
        return [("TREC run", str(run.path))]
    rows = [
        ("command", run.marker.command),
        ("state", f"{state}, {int(last)} steps" if last is not None else state),
        ("model", shown(run.config.get("model"))),
        ("data", shown(run.config.get("data"))),
        ("begun", run.marker.created),
        ("r0", run.marker.version),
        ("folder", str(run.path)),
    ]
    return [(name, value) for name, value in rows if value != "empty"]


def summary(run: Run) -> list[tuple[str, str]]:
    """The figures of ``summary.json``, by name."""
    content = run.json("summary.json")
    if not isinstance(content, dict):
        return []
    return [(name.replace("_", " "), shown(round(value, 4) if isinstance(value, float) else value))
            for name, value in content.items() if not isinstance(value, dict)]  # fmt: skip
