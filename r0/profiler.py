"""``profile``: the spans of all processes over some steps, on one clock, as a trace and a table."""

from __future__ import annotations

import time
from dataclasses import replace

from r0.actors.calls import is_actor
from r0.actors.pool import Pool
from r0.actors.roles import Roles
from r0.config.types import step_range
from r0.process import spans
from r0.runs import Recorder
from r0.runs.profile_table import STEP, profile_table
from r0.runs.trace import Track, by_role, write_trace
from r0.storage.files import write_atomic

WARM_UP, STEPS = 2, 3  # profile=true leaves out the first steps of a start, in which caches fill and kernels are compiled
PINGS, DEADLINE_S = 5, 60.0
STOPPING_S = 2.0  # a worker that is still at work does not hold up a run that is to stop


class Profiler:
    """Records some steps of a run.

    Args:
        profile: ``RLConfig.profile``.
        roles: whose workers are recorded.
        recorder: of the run; trace and table go to the folder ``profile``.
    """

    def __init__(self, profile: bool | str, roles: Roles, recorder: Recorder):
        self._profile, self._roles, self._recorder, self._say = profile, roles, recorder, recorder.say
        self._first, self._last = 0, -1
        self._began: int | None = None  # the first recorded step
        self._offsets: dict[tuple[str, int], int] = {}

    def resume(self, done: int, steps: int) -> None:
        """Choose the steps of a run that has ``done`` of its ``steps``."""
        if self._profile is False:
            return
        if self._began is not None:  # the learner was started again, and steps are repeated
            spans.take()
            self._began = None
        if self._profile is True:
            self._last = min(steps, done + WARM_UP + STEPS)
            self._first = max(done + 1, self._last - STEPS + 1)
        else:
            first, self._last = step_range(str(self._profile))
            self._first = max(first, done + 1)
            if self._last <= done:
                self._say(f"profile: the run has done its first {done} steps, so that steps {self._profile} are not recorded")

    def begin(self, step: int) -> None:
        """Before ``step`` (counted from 1)."""
        if self._began is not None or not self._first <= step <= self._last:
            return
        self._began = step
        self._offsets = {}
        for pool in self._pools():
            for index in range(len(pool)):
                offset = self._offset(pool, index)
                if offset is not None:
                    self._offsets[pool.role, index] = offset
            pool.attempt_some("record_spans", dict.fromkeys(range(len(pool)), ()), DEADLINE_S)
        learner = next((pool.workers[0] for pool in self._roles.pools if pool.role == "learner" and pool.workers), None)
        if learner is None or is_actor(learner):
            spans.record()
        else:  # in this process: it says what a span waits for
            learner.record_spans()

    def end(self, step: int, stopping: bool = False, whole: bool = True) -> None:
        """After ``step`` and its evaluation and checkpoint; ``stopping``: it is the last one in this process, and not ``whole``
        if it was left."""
        if self._began is None or not (stopping or step >= self._last):
            return
        first, self._began = self._began, None
        if not whole and step == first:
            spans.take()
            return
        tracks = self._take(first, STOPPING_S if stopping else DEADLINE_S, whole)
        folder = self._recorder.folder("profile")
        write_trace(folder / "trace.json", tracks)
        table = profile_table(tracks, first)
        write_atomic(folder / "table.txt", f"{table}\n".encode())
        self._say(f"{table}\nprofile: {folder / 'trace.json'}; open it at https://ui.perfetto.dev or chrome://tracing")

    def _pools(self) -> list[Pool]:
        """The pools whose workers are in other processes, in the order of the data."""
        return [pool for pool in self._roles.pools if pool.workers and is_actor(pool.workers[0])]

    def _take(self, first: int, deadline_s: float, whole: bool) -> list[Track]:
        """The tracks of all processes; ``first`` is the number of the first step. The last one is left out unless ``whole``."""
        found_here = spans.take() or []
        if not whole:
            left = max(one.start_ns for one in found_here if one.name == STEP)
            found_here = [one for one in found_here if one.start_ns < left]
        for number, one in enumerate((one for one in found_here if one.name == STEP), first):
            one.details["step"] = number
        tracks = by_role(Track("driver", None, found_here))
        for pool in self._pools():
            taken = pool.attempt_some("take_spans", dict.fromkeys(range(len(pool)), ()), deadline_s)
            for index, found in taken.items():
                offset = self._offsets.get((pool.role, index))
                if found is None or isinstance(found, Exception) or offset is None:  # another one may be in its place
                    self._say(f"profile: {pool.role} {index} does not answer or was started again; its spans are missing")
                    continue
                on_clock = [replace(one, start_ns=one.start_ns - offset, end_ns=one.end_ns - offset) for one in found]
                tracks.append(Track(pool.role, index, on_clock))
        return tracks

    def _offset(self, pool: Pool, index: int) -> int | None:
        """By how many nanoseconds a worker's clock is ahead of the driver's; None if it does not answer.

        Of several round trips the shortest tells: the worker's time was read at its middle, give or take half of it. What is less
        is no sign of another clock: processes of one machine have the same.
        """
        best: tuple[int, int] | None = None
        for _ in range(PINGS):
            sent = time.perf_counter_ns()
            there = pool.attempt_on(index, "clock_ns", (), DEADLINE_S)
            back = time.perf_counter_ns()
            if isinstance(there, Exception):
                return None
            trip = back - sent
            if best is None or trip < best[0]:
                best = (trip, there - (sent + back) // 2)
        return None if best is None else offset_of(*best)


def offset_of(trip_ns: int, difference_ns: int) -> int:
    """The offset of a clock that differed by ``difference_ns`` in a round trip of ``trip_ns``: none, if the trip explains it."""
    return 0 if abs(difference_ns) <= trip_ns // 2 + 1 else difference_ns
