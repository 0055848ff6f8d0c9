"""The rerank role: a worker with one engine, and a group of workers among which queries are distributed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from r0.actors.pool import Pool, RoleDied, RoleTimeout, call_each, is_actor
from r0.actors.rollout.engine import make_engine
from r0.actors.rollout.settings import EngineSettings, stop_ids
from r0.config import RankingKeys
from r0.errors import UserError
from r0.rerank.job import Job, Outcome
from r0.rerank.judge import Judge
from r0.rerank.scheduler import Scheduler
from r0.text.prompt_file import load_system_prompt, template_variables
from r0.text.tokenizer import open_tokenizer

logger = logging.getLogger(__name__)

WORK_S = 0.5  # seconds per call to a worker; results and stop requests wait at most this long
CALLS_IN_FLIGHT = 2  # calls per worker, so that it continues while the driver processes the first result
QUEUED = 2  # × max_num_seqs requests are in flight, so that the engine never runs empty


class RerankWorker:
    """One engine that works on many queries.

    Args:
        keys: the configuration.
        settings: engine settings.
        max_prompt_tokens: maximum length of a whole prompt.

    Raises:
        UserError: the engine is not installed, or model or tokenizer cannot be used.
    """

    def __init__(self, keys: RankingKeys, settings: EngineSettings, max_prompt_tokens: int):
        folder = Path(settings.model)
        tokenizer = open_tokenizer(folder)
        variables = template_variables(folder, keys.chat_template_kwargs)
        judge = Judge(tokenizer, keys, max_prompt_tokens, stop_ids(folder), partial(load_system_prompt, folder), variables)
        self._engine = make_engine(settings)
        self._scheduler = Scheduler(self._engine, judge, keys, QUEUED * self._engine.max_num_seqs)

    def work(self, jobs: Sequence[Job], seconds: float) -> list[Outcome]:
        """Accept ``jobs`` and work for ``seconds``, or until more jobs are needed; return the finished jobs.

        Raises:
            UserError: the tokenizer cannot be used.
        """
        for job in jobs:
            self._scheduler.add(job)
        end = time.monotonic() + seconds
        done: list[Outcome] = []
        while not self._scheduler.idle and time.monotonic() < end and not (done and self._scheduler.wants_jobs):
            done += self._scheduler.step()
        return done

    def pid(self) -> int:
        """The id of this worker's process."""
        return os.getpid()

    def close(self) -> None:
        """Release the engine."""
        self._engine.close()


@dataclass
class _WorkerState:
    """The jobs and calls of one worker."""

    index: int
    assigned: dict[int, Job] = field(default_factory=dict)  # unfinished jobs, by key
    unsent: list[Job] = field(default_factory=list)  # assigned jobs not yet sent
    load: int = 0  # characters of the assigned jobs
    refs: list[Any] = field(default_factory=list)  # references of the calls in flight, oldest first
    since: float = 0.0  # clock, in seconds: latest possible start of the oldest call

    def take(self, job: Job) -> None:
        self.assigned[job.key] = job
        self.unsent.append(job)
        self.load += _cost(job)

    def done(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Remove and return the outcomes of assigned jobs (others belong to an abandoned run)."""
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
        self._lost: set[int] = set()

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
        source = iter(jobs)
        states = [_WorkerState(index) for index in range(len(self._pool))]
        self._assign(source, states)
        while any(state.assigned for state in states) and not stop():
            for state, outcomes in self._poll(states):
                yield from state.done(outcomes)
            self._assign(source, states)

    def close(self, gently: bool = True) -> None:
        """Stop the workers; ``gently`` lets them close first."""
        self._pool.close(gently)
        if self._placement is not None:
            self._placement.close()

    def _assign(self, source: Iterator[Job], states: Sequence[_WorkerState]) -> None:
        while room := [state for state in states if len(state.assigned) < self._capacity]:
            job = next(source, None)
            if job is None:
                return
            min(room, key=lambda state: (state.load, state.index)).take(job)

    def _poll(self, states: Sequence[_WorkerState]) -> list[tuple[_WorkerState, list[Outcome]]]:
        """Send unsent jobs, and collect what finishes within a moment."""
        if not is_actor(self._pool.workers[0]):
            jobs, states[0].unsent = states[0].unsent, []
            return [(states[0], self._pool.workers[0].work(jobs, WORK_S))]
        import ray

        for state in states:
            while len(state.refs) < CALLS_IN_FLIGHT and state.assigned:
                jobs, state.unsent = state.unsent, []
                state.since = state.since if state.refs else time.monotonic()
                state.refs.append(self._pool.workers[state.index].work.remote(jobs, WORK_S))
        called = {state.refs[0]: state for state in states if state.refs}
        ready, _ = ray.wait(list(called), num_returns=1, timeout=2 * WORK_S)
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
        """Start a new worker and give it the queries of the old one."""
        if not self._lost.isdisjoint(state.assigned):
            raise error
        logger.warning("%s; a new worker restarts its %d unfinished queries", error, len(state.assigned))
        self._lost |= set(state.assigned)
        self._pool.replace(state.index)
        call_each([self._pool.workers[state.index]], "start", [()], self._start_deadline_s, "rerank")
        state.refs, state.unsent = [], list(state.assigned.values())


def _cost(job: Job) -> int:
    return len(job.query) + sum(map(len, job.documents))
