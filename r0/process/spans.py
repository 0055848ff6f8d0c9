"""Spans: what a process does, and from when to when. Nothing is kept unless the driver records (``profile``).

Times are of the process's monotonic clock, in nanoseconds; ``r0.profiler`` brings those of all processes onto the driver's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class Span:
    """A span of a role's work; ``details`` are numbers such as ``tokens``."""

    role: str
    name: str
    start_ns: int
    end_ns: int
    thread: int
    details: dict[str, float] = field(default_factory=dict)


_kept: list[Span] | None = None  # None: nothing is recorded
_settle: Callable[[], None] | None = None


class _Recording:
    """Records the span of a ``with`` block."""

    def __init__(self, role: str, name: str, details: dict[str, float]):
        self._role, self._name, self._details = role, name, details

    def add(self, **details: float) -> None:
        """Details that are known in the block only."""
        self._details |= details

    def __enter__(self) -> Self:
        self._start_ns = time.perf_counter_ns()
        return self

    def __exit__(self, *_error: object) -> None:
        if _settle is not None:
            _settle()
        if _kept is not None:
            end_ns = time.perf_counter_ns()
            _kept.append(Span(self._role, self._name, self._start_ns, end_ns, threading.get_ident(), self._details))


class _Nothing:
    """The block while nothing is recorded."""

    def add(self, **details: float) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


_NOTHING = _Nothing()


def span(role: str, name: str, **details: float) -> _Recording | _Nothing:
    """The block of a ``with`` statement is a span of ``role`` if spans are recorded."""
    return _NOTHING if _kept is None else _Recording(role, name, details)


def record(settle: Callable[[], None] | None = None) -> None:
    """Record the spans of this process from now on. ``settle`` is called before a span ends: it waits for what a device still
    works on."""
    global _kept, _settle
    _kept, _settle = [], settle


def take() -> list[Span] | None:
    """The spans since ``record``, by the time at which they ended; None without it. None are recorded from now on."""
    global _kept, _settle
    found, _kept, _settle = _kept, None, None
    return found


class Traced:
    """A worker whose spans the driver can record from another process."""

    def clock_ns(self) -> int:
        """Now, on the clock of the spans."""
        return time.perf_counter_ns()

    def record_spans(self) -> None:
        """See ``record``."""
        record()

    def take_spans(self) -> list[Span] | None:
        """See ``take``."""
        return take()
