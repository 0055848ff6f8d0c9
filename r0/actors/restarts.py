"""The limit of worker restarts before a run fails."""

from __future__ import annotations

import time

from r0.errors import RunFailed, reason

WINDOW_S = 3600.0  # only restarts within this time count


class Restarts:
    """The restarts of one run.

    Args:
        most: restarts within an hour; one more ends the run. Workers that fail together count once.
    """

    def __init__(self, most: int):
        self.most = most
        self.total = 0
        self._times: list[float] = []

    def count(self, cause: BaseException) -> None:
        """Count a restart because of ``cause``.

        Raises:
            RunFailed: there were ``most`` of them within the last hour.
        """
        now = time.monotonic()
        self._times = [when for when in self._times if now - when < WINDOW_S]
        if len(self._times) >= self.most:
            raise RunFailed(
                f"{reason(cause)}; workers were started again {len(self._times)} times within an hour, which is the most that "
                f"ray.max_restarts={self.most} allows; see what ended them, then run the same command again to resume"
            ) from cause
        self._times.append(now)
        self.total += 1
