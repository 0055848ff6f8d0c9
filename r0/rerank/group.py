"""The workers of the rerank role as a group, among which queries are distributed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from r0.actors.calls import RoleDied, RoleTimeout, is_actor
from r0.actors.pool import Pool
from r0.errors import UserError
from r0.rerank.job import Job, Outcome

logger = logging.getLogger(__name__)

WORK_S = 0.5  # seconds per call to a worker; results and stop requests wait at most this long
CALLS_IN_FLIGHT = 2  # calls per worker, so that it continues while the driver processes the first result


@dataclass
class _WorkerState:
    """The jobs and calls of one worker."""

    index: int
    assigned: dict[int, Job] = field(default_factory=dict)  # unfinished jobs, by key
    unsent: list[Job] = field(default_factory=list)  # assigned jobs not yet sent
    cancelled: set[int] = field(default_factory=set)  # keys of dropped jobs that the worker does not know of yet
    load: int = 0  # characters of the assigned jobs
    refs: list[Any] = field(default_factory=list)  # references of the calls in flight, oldest first
    since: float = 0.0  # clock, in seconds: latest possible start of the oldest call
    starting: Any = None  # reference of the new worker's start, until it is ready

    def take(self, job: Job) -> None:
        self.assigned[job.key] = job
        self.unsent.append(job)
        self.load += _cost(job)

    def drop(self, keys: Collection[int]) -> None:
        """Forget jobs, whether they were sent or not."""
        found = [key for key in keys if key in self.assigned]
        for key in found:
            self.load -= _cost(self.assigned.pop(key))
        unsent = {job.key for job in self.unsent}
        self.cancelled.update(key for key in found if key not in unsent)
        self.unsent = [job for job in self.unsent if job.key in self.assigned]

    def call(self) -> tuple[list[Job], tuple[int, ...]]:
        """What the next call tells the worker: new jobs, and keys of dropped ones."""
        jobs, cancelled = self.unsent, tuple(self.cancelled)
        self.unsent, self.cancelled = [], set()
        return jobs, cancelled

    def done(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Remove and return the outcomes of assigned jobs (others belong to an abandoned run, or were dropped)."""
        found = [outcome for outcome in outcomes if outcome.key in self.assigned]
        for outcome in found:
            self.load -= _cost(self.assigned.pop(outcome.key))
        return found


class RerankGroup:
    """The workers of the rerank role. A worker that dies or hangs is replaced, and its unfinished queries are restarted, once.

    Args:
        pool: the workers: one plain object, or Ray actors.
        capacity: maximum number of queries per worker.
        deadline_s: time limit of one call in seconds.
        start_deadline_s: time limit for a new worker to be ready, in seconds.
        placement: where Ray actors are (``r0.actors.placement.Placement``); closed with them.
    """

    def __init__(self, pool: Pool, capacity: int, deadline_s: float, start_deadline_s: float, placement: Any = None):
        self._pool, self._capacity, self._placement = pool, capacity, placement
        self._deadline_s, self._start_deadline_s = deadline_s, start_deadline_s

    @property
    def workers(self) -> list[Any]:
        """The workers: a plain object, or Ray actors."""
        return self._pool.workers

    def run(self, jobs: Iterable[Job], stop: Callable[[], bool] = lambda: False) -> Iterator[Outcome]:
        """Yield the outcomes of all jobs as they finish; after ``stop()`` returns True no more are yielded.

        Outcomes do not depend on the distribution. Each job goes to the worker with the fewest assigned characters, as soon
        as it has room.

        Raises:
            UserError: the tokenizer cannot be used.
            RoleDied, RoleTimeout: a query was in progress on two workers that died or hung.
        """
        source, shared = iter(jobs), self.open()
        while True:
            while shared.has_room(self._capacity) and (job := next(source, None)) is not None:
                shared.add(job, self._capacity)
            if shared.idle or stop():
                return
            yield from shared.poll(WORK_S)
            for error in shared.lost.values():
                raise error

    def open(self) -> SharedWork:
        """Work to which jobs can be added, and from which they can be taken, while others are in progress."""
        return SharedWork(self._pool, self._deadline_s, self._start_deadline_s)

    def close(self, gently: bool = True) -> None:
        """Stop the workers; ``gently`` lets them close first."""
        self._pool.close(gently)
        if self._placement is not None:
            self._placement.close()


class SharedWork:
    """Jobs in progress on the workers of a pool; for its arguments see ``RerankGroup``.

    Attributes:
        lost: the errors of jobs that were in progress on two workers that died or hung, by their keys; they have no outcome.
    """

    def __init__(self, pool: Pool, deadline_s: float, start_deadline_s: float):
        self._pool, self._deadline_s, self._start_deadline_s = pool, deadline_s, start_deadline_s
        self._states = [_WorkerState(index) for index in range(len(pool))]
        self._restarted: set[int] = set()  # keys of jobs that have lost one worker
        self.lost: dict[int, Exception] = {}

    @property
    def _ready(self) -> list[_WorkerState]:
        """The workers that can take jobs: those that are starting only if there are no others."""
        return [state for state in self._states if state.starting is None] or self._states

    @property
    def idle(self) -> bool:
        """Whether no job is in progress."""
        return not any(state.assigned for state in self._states)

    def has_room(self, capacity: int) -> bool:
        """Whether a worker has fewer than ``capacity`` jobs."""
        return any(len(state.assigned) < capacity for state in self._ready)

    def add(self, job: Job, capacity: float = math.inf) -> None:
        """Add a job, whose key must be new: to the worker with the fewest assigned characters of those with room."""
        room = [state for state in self._ready if len(state.assigned) < capacity]
        min(room, key=lambda state: (state.load, state.index)).take(job)

    def cancel(self, keys: Collection[int]) -> None:
        """Drop jobs: they have no outcome. Keys of others are ignored."""
        for state in self._states:
            state.drop(keys)

    def poll(self, seconds: float) -> list[Outcome]:
        """Tell the workers what is new and let them work for about ``seconds``; return the outcomes that are there.

        Raises:
            UserError: the tokenizer cannot be used.
        """
        if not is_actor(self._pool.workers[0]):
            (state,) = self._states
            jobs, cancelled = state.call()
            return state.done(self._pool.workers[0].work(jobs, seconds, cancelled))
        return [outcome for state, outcomes in self._poll_actors(seconds) for outcome in state.done(outcomes)]

    def _poll_actors(self, seconds: float) -> list[tuple[_WorkerState, list[Outcome]]]:
        import ray

        self._look_at_starts()
        for state in (state for state in self._states if state.starting is None):
            while len(state.refs) < CALLS_IN_FLIGHT and (state.assigned or state.cancelled):
                jobs, cancelled = state.call()
                state.since = state.since if state.refs else time.monotonic()
                state.refs.append(self._pool.workers[state.index].work.remote(jobs, seconds, cancelled))
        called = {state.refs[0]: state for state in self._states if state.refs}
        awaited = [*called, *(state.starting for state in self._states if state.starting is not None)]
        if awaited:
            ray.wait(awaited, num_returns=1, timeout=2 * seconds)
        ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0) if awaited else ([], [])  # all that are there
        found = []
        for state in called.values():
            try:
                if state.refs[0] in ready:
                    found.append((state, ray.get(state.refs[0], timeout=self._deadline_s)))
                    del state.refs[0]
                    state.since = time.monotonic()
                elif time.monotonic() - state.since > self._deadline_s:
                    self._replace(state, RoleTimeout(f"rerank worker {state.index}: no answer within {self._deadline_s:g} s"))
            except ray.exceptions.GetTimeoutError:
                self._replace(state, RoleTimeout(f"rerank worker {state.index}: its answer did not arrive in time"))
            except ray.exceptions.RayActorError as error:
                reason = str(error).splitlines()[0]
                self._replace(state, RoleDied(f"rerank worker {state.index}: its process ended: {reason}"))
            except UserError as error:  # Ray adds the worker's traceback to the text
                raise UserError(str(getattr(error, "cause", error))) from None
        return found

    def _replace(self, state: _WorkerState, error: Exception) -> None:
        """Begin to start a new worker. The jobs of the old one, except those that have lost a worker before, go to the others, or
        wait for the new one if there are none."""
        again = [key for key in state.assigned if key in self._restarted]
        self.lost.update(dict.fromkeys(again, error))
        state.drop(again)
        logger.warning("%s; a new worker restarts its %d unfinished queries", error, len(state.assigned))
        self._restarted |= set(state.assigned)
        self._pool.replace(state.index)
        state.starting, state.since = self._pool.workers[state.index].start.remote(), time.monotonic()
        unfinished = list(state.assigned.values())
        state.refs, state.assigned, state.unsent, state.cancelled, state.load = [], {}, [], set(), 0
        for job in unfinished:
            self.add(job)

    def _look_at_starts(self) -> None:
        """Use new workers that are ready. One that cannot start is left out, if there are others.

        Raises:
            UserError: the last one cannot load its model.
            RoleDied, RoleTimeout: the last one does not get ready.
        """
        import ray

        for state in [state for state in self._states if state.starting is not None]:
            ready, _ = ray.wait([state.starting], timeout=0)
            if not ready and time.monotonic() - state.since < self._start_deadline_s:
                continue
            error = self._start_error(state, wait_s=self._deadline_s if ready else 0.0)
            state.starting = None
            if error is None:
                continue
            self._states.remove(state)
            if not self._states:
                raise error
            logger.warning("%s; the others go on without it", error)
            for job in state.assigned.values():
                self.add(job)

    def _start_error(self, state: _WorkerState, wait_s: float) -> Exception | None:
        """Why a new worker has not started, if it has not."""
        import ray

        name = f"rerank worker {state.index}"
        try:
            ray.get(state.starting, timeout=wait_s)
        except ray.exceptions.GetTimeoutError:
            return RoleTimeout(f"{name}: not ready within {self._start_deadline_s:g} s")
        except ray.exceptions.RayActorError as error:
            return RoleDied(f"{name}: its process ended: {str(error).splitlines()[0]}")
        except UserError as error:  # Ray adds the worker's traceback to the text
            return UserError(str(getattr(error, "cause", error)))
        return None


def _cost(job: Job) -> int:
    return len(job.query) + sum(map(len, job.documents))
