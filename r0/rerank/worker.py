"""The rerank role: a plain class around one engine, and the group of them to which the queries are dealt."""

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
from r0.actors.rollout.engine import EngineSettings, make_engine, stop_ids
from r0.config import RankingKeys
from r0.errors import UserError
from r0.rerank.job import Job, Outcome
from r0.rerank.judge import Judge
from r0.rerank.scheduler import Scheduler
from r0.text.prompt_file import load_system_prompt

logger = logging.getLogger(__name__)

WORK_S = 0.5  # seconds of one call to a worker: how long results and a wish to stop wait
CALLS = 2  # that a worker has at one time, so that it goes on while the driver looks at what the first one gave
QUEUED = 2  # times ``max_num_seqs`` requests are in flight, so that the engine always has a next one


class RerankWorker:
    """One engine that works on many queries.

    Args:
        keys: the configuration.
        settings: of the engine.
        max_prompt_tokens: budget of a whole prompt.

    Raises:
        UserError: the engine is not installed; model or tokenizer cannot be used.
    """

    def __init__(self, keys: RankingKeys, settings: EngineSettings, max_prompt_tokens: int):
        from transformers import AutoTokenizer

        folder = Path(settings.model)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        judge = Judge(tokenizer, keys, max_prompt_tokens, stop_ids(folder), partial(load_system_prompt, folder))
        self._engine = make_engine(settings)
        self._scheduler = Scheduler(self._engine, judge, keys, QUEUED * settings.max_num_seqs)

    def work(self, jobs: Sequence[Job], seconds: float) -> list[Outcome]:
        """Take ``jobs`` in and work; gives what is done after ``seconds``, or when there is room for more.

        Raises:
            UserError: the tokenizer cannot be used.
        """
        for job in jobs:
            self._scheduler.add(job)
        end = time.monotonic() + seconds
        done: list[Outcome] = []
        while not self._scheduler.idle and time.monotonic() < end and not (done and self._scheduler.hungry):
            done += self._scheduler.step()
        return done

    def pid(self) -> int:
        """The process that this worker is in."""
        return os.getpid()

    def close(self) -> None:
        """Release what the engine holds."""
        self._engine.close()


@dataclass
class _Share:
    """What one worker has in hand."""

    index: int
    held: dict[int, Job] = field(default_factory=dict)  # not done yet, by key
    inbox: list[Job] = field(default_factory=list)  # of them: not handed over yet
    load: int = 0  # characters of what is held
    refs: list[Any] = field(default_factory=list)  # of the call in progress, and of those behind it
    since: float = 0.0  # clock, in seconds: when the first of them began, at the latest

    def take(self, job: Job) -> None:
        self.held[job.key] = job
        self.inbox.append(job)
        self.load += _cost(job)

    def done(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Those of the outcomes that are held (others are of a run that was given up)."""
        found = [outcome for outcome in outcomes if outcome.key in self.held]
        for outcome in found:
            self.load -= _cost(self.held.pop(outcome.key))
        return found


class RerankGroup:
    """The workers of the rerank role. A worker that dies or hangs is replaced, and its unfinished queries are begun again, once.

    Args:
        pool: the workers: one plain object, or Ray actors.
        capacity: queries that a worker has in hand, at most.
        deadline_s: seconds for one call of a worker.
        start_deadline_s: seconds for a new worker to be ready.
    """

    def __init__(self, pool: Pool, capacity: int, deadline_s: float, start_deadline_s: float):
        self._pool, self._capacity = pool, capacity
        self._deadline_s, self._start_deadline_s = deadline_s, start_deadline_s
        self._lost: set[int] = set()

    @property
    def workers(self) -> list[Any]:
        """The workers: a plain object, or Ray actors."""
        return self._pool.workers

    def run(self, jobs: Iterable[Job], stop: Callable[[], bool] = lambda: False) -> Iterator[Outcome]:
        """Outcomes of all jobs in the order in which they are done; after ``stop()`` no more come.

        Who works on what changes no outcome. Jobs go to the worker with the fewest characters in hand, as it has room.

        Raises:
            UserError: the tokenizer cannot be used.
            RoleDied, RoleTimeout: a query was in work at two workers that died or were late.
        """
        source = iter(jobs)
        shares = [_Share(index) for index in range(len(self._pool))]
        self._deal(source, shares)
        while any(share.held for share in shares) and not stop():
            for share, outcomes in self._round(shares):
                yield from share.done(outcomes)
            self._deal(source, shares)

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def _deal(self, source: Iterator[Job], shares: Sequence[_Share]) -> None:
        while room := [share for share in shares if len(share.held) < self._capacity]:
            job = next(source, None)
            if job is None:
                return
            min(room, key=lambda share: (share.load, share.index)).take(job)

    def _round(self, shares: Sequence[_Share]) -> list[tuple[_Share, list[Outcome]]]:
        """Hand over what waits, and take what comes back within a moment."""
        if not is_actor(self._pool.workers[0]):
            jobs, shares[0].inbox = shares[0].inbox, []
            return [(shares[0], self._pool.workers[0].work(jobs, WORK_S))]
        import ray

        for share in shares:
            while len(share.refs) < CALLS and share.held:
                jobs, share.inbox = share.inbox, []
                share.since = share.since if share.refs else time.monotonic()
                share.refs.append(self._pool.workers[share.index].work.remote(jobs, WORK_S))
        called = {share.refs[0]: share for share in shares if share.refs}
        ready, _ = ray.wait(list(called), num_returns=1, timeout=2 * WORK_S)
        found = []
        for share in called.values():
            try:
                if share.refs[0] in ready:
                    found.append((share, ray.get(share.refs[0], timeout=self._deadline_s)))
                    del share.refs[0]
                    share.since = time.monotonic()
                elif time.monotonic() - share.since > self._deadline_s:
                    self._replace(share, RoleTimeout(f"rerank worker {share.index}: no answer within {self._deadline_s:g} s"))
            except ray.exceptions.GetTimeoutError:
                self._replace(share, RoleTimeout(f"rerank worker {share.index}: its answer did not arrive in time"))
            except ray.exceptions.RayActorError as error:
                reason = str(error).splitlines()[0]
                self._replace(share, RoleDied(f"rerank worker {share.index}: its process ended: {reason}"))
            except UserError as error:  # Ray adds the worker's traceback to the text
                raise UserError(str(getattr(error, "cause", error))) from None
        return found

    def _replace(self, share: _Share, error: Exception) -> None:
        """Start another worker and hand it the queries of the old one."""
        if not self._lost.isdisjoint(share.held):
            raise error
        logger.warning("%s; a new worker begins its %d unfinished queries again", error, len(share.held))
        self._lost |= set(share.held)
        self._pool.replace(share.index)
        call_each([self._pool.workers[share.index]], "start", [()], self._start_deadline_s, "rerank")
        share.refs, share.inbox = [], list(share.held.values())


def _cost(job: Job) -> int:
    return len(job.query) + sum(map(len, job.documents))
