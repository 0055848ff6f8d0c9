"""The run's record as the trainer sees it: seconds by clock, metrics and rollouts by step, evaluations, messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clocks:
    """Seconds by name since the last ``take``. Names may nest; each counts its own whole time."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start

    def take(self) -> dict[str, float]:
        """The seconds so far, and start again from nothing."""
        seconds, self._seconds = self._seconds, {}
        return seconds
