"""How long a call that is made in every step may take: what was measured decides, once something was."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

MARGIN = 10.0
LEAST_S = 300.0


@dataclass
class Deadline:
    """``limit_s`` seconds for the first call; for later ones ten times the slowest so far, and at least five minutes, or
    ``limit_s`` if that is less.

    A call with more work than the slowest one has more time in proportion.

    Attributes:
        slowest_s: seconds of the slowest call that was measured; 0: none was.
    """

    limit_s: float
    slowest_s: float = 0.0
    _work: float = 1.0

    def seconds(self, work: float = 1.0) -> float:
        """For a call with so much work, in any unit."""
        if not self.slowest_s:
            return self.limit_s
        return max(min(self.limit_s, LEAST_S), MARGIN * self.slowest_s * max(1.0, work / self._work))

    def expect(self, seconds: float) -> None:
        """The first call may take ten times as long as another part of the step took, if that is more than ``limit_s``."""
        if not self.slowest_s:
            self.limit_s = max(self.limit_s, MARGIN * seconds)

    def measured(self, seconds: float, work: float = 1.0) -> None:
        """A call with so much work took so long."""
        if seconds > self.slowest_s:
            self.slowest_s, self._work = seconds, work

    @contextlib.contextmanager
    def call(self, work: float = 1.0) -> Iterator[float]:
        """Measures the block, which is given its seconds."""
        began = time.monotonic()
        yield self.seconds(work)
        self.measured(time.monotonic() - began, work)


class Silence:
    """The longest time in which one of several workers that give results one by one gave none.

    Attributes:
        longest_s: so far, in seconds.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._began = time.monotonic()
        self._heard: dict[int, float] = {}

    def heard(self, worker: int) -> None:
        """``worker`` gave a result."""
        now = time.monotonic()
        self.longest_s = max(self.longest_s, now - self._heard.get(worker, self._began))
        self._heard[worker] = now
