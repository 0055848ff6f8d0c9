"""``profile/trace.json``: the spans of all processes as a Chrome trace, which Perfetto and chrome://tracing show.

Format: "Trace Event Format" (Google, 2016): complete events (``ph: X``) with microseconds, metadata (``ph: M``) with names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r0.process.spans import Span
from r0.storage.files import write_atomic

ROLES = ("driver", "rollout", "reward", "learner")


@dataclass(frozen=True, slots=True)
class Track:
    """The spans of worker ``index`` of ``role``, all on the driver's clock. The driver's has index None."""

    role: str
    index: int | None
    spans: Sequence[Span]

    @property
    def name(self) -> str:
        """``driver``, ``rollout 0``."""
        return self.role if self.index is None else f"{self.role} {self.index}"


def by_role(track: Track) -> list[Track]:
    """The tracks of a process in which several roles work (inline)."""
    roles = [role for role in ROLES if any(span.role == role for span in track.spans)]
    return [Track(role, 0 if role != "driver" else None, [one for one in track.spans if one.role == role]) for role in roles]


def write_trace(path: Path, tracks: Sequence[Track]) -> None:
    """Write the file; times begin at the first span.

    Raises:
        UserError: it cannot be written.
    """
    content = {"traceEvents": list(_events(tracks)), "displayTimeUnit": "ms"}
    write_atomic(path, json.dumps(content, ensure_ascii=False).encode())


def _events(tracks: Sequence[Track]) -> Iterator[dict[str, Any]]:
    begin = min((span.start_ns for track in tracks for span in track.spans), default=0)
    for pid, track in enumerate(tracks):
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": track.name}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
        threads = {thread: tid for tid, thread in enumerate(dict.fromkeys(span.thread for span in track.spans))}
        for span in sorted(track.spans, key=lambda one: (one.start_ns, -one.end_ns)):
            yield {
                "ph": "X",
                "name": f"step {span.details['step']}" if "step" in span.details else span.name,
                "cat": span.role,
                "pid": pid,
                "tid": threads[span.thread],
                "ts": (span.start_ns - begin) / 1e3,
                "dur": (span.end_ns - span.start_ns) / 1e3,
                "args": span.details,
            }
