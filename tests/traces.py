"""Checks of a run's profile."""

from __future__ import annotations

import json
from pathlib import Path

TOLERANCE_US = 1e3
WITHIN = {  # span of a worker → that of the driver in which it lies, whichever it is
    ("rollout", "sample"): {"sample", "evaluate"},
    ("rollout", "receive weights"): {"sync"},
    ("reward", "score"): {"sample", "reward", "evaluate"},  # it may begin in the first and end in the second
    ("learner", "update"): {"learn"},
    ("learner", "forward"): {"learn"},
    ("learner", "optimizer step"): {"learn"},
    ("learner", "send weights"): {"sync"},
    ("learner", "gather"): {"sync"},
}


def check_trace(run: Path, processes: list[str], steps: list[int]) -> None:
    """The trace has these processes and steps; what a worker does lies within what the driver waits for, on one clock."""
    events = json.loads((run / "profile" / "trace.json").read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert list(names.values()) == processes
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["pid"] for event in spans} == set(names)
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in spans)
    driver = [event for event in spans if event["cat"] == "driver"]
    assert [event["name"] for event in driver if event["name"].startswith("step")] == [f"step {step}" for step in steps]
    seen = set()
    for event in spans:
        kind = (event["cat"], event["name"])
        if kind in WITHIN:
            seen.add(kind)
            waits = [one for one in driver if one["name"] in WITHIN[kind]]
            ends = {**event, "dur": 0}, {**event, "ts": event["ts"] + event["dur"], "dur": 0}
            assert all(any(lies_in(end, one) for one in waits) for end in ends), event
    roles = {name.split()[0] for name in processes}
    both = {"rollout", "learner"} <= roles
    assert seen == {kind for kind in WITHIN if kind[0] in roles and (both or WITHIN[kind] != {"sync"})}
    for event in spans:
        if event["name"] in ("forward", "backward", "optimizer step"):
            assert any(lies_in(event, one) for one in spans if one["name"] == "update" and one["pid"] == event["pid"])
    check_table((run / "profile" / "table.txt").read_text(), roles)


def lies_in(inner: dict, outer: dict) -> bool:
    """Whether a span is within another, give or take ``TOLERANCE_US``."""
    early = outer["ts"] - TOLERANCE_US <= inner["ts"]
    return early and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + TOLERANCE_US


def check_table(text: str, roles: set[str]) -> None:
    """The parts add up to the step; every role has a line."""
    lines = text.splitlines()[2:]
    seconds = {line[:34].rstrip(): float(line[34:43]) for line in lines}
    parts = {name: value for name, value in seconds.items() if not name.startswith(" ")}
    step = parts.pop("step")
    assert "other" in parts
    assert abs(sum(parts.values()) - step) < 1e-3 * (len(parts) + 1)  # each is rounded
    assert {name.strip().split(":")[0] for name in seconds if name.startswith(" ")} - {"driver"} == roles - {"driver"}
