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
    """``limit_s`` seconds for the first call; for later ones ten times the slowest so far, at least five minutes, if less.

    A call with more work than the slowest one has more time in proportion.
    """

    limit_s: float
    _slowest_s: float = 0.0
    _work: float = 1.0

    def seconds(self, work: float = 1.0) -> float:
        """For a call with so much work, in any unit."""
        if not self._slowest_s:
            return self.limit_s
        return min(self.limit_s, max(LEAST_S, MARGIN * self._slowest_s * max(1.0, work / self._work)))

    @contextlib.contextmanager
    def call(self, work: float = 1.0) -> Iterator[float]:
        """Measures the block, which is given its seconds."""
        began = time.monotonic()
        yield self.seconds(work)
        took = time.monotonic() - began
        if took > self._slowest_s:
            self._slowest_s, self._work = took, work
