"""Runs many queries on one engine, with all questions that are ready in flight at once.

The engine works on the requests of all queries together. A query's next question depends only on its own replies, never on
another query. Seeds are hashes, so a completion depends neither on the other requests in flight nor on the order of replies.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Generator
from dataclasses import dataclass, field

from r0.actors.rollout.engine import Engine
from r0.config import RankingKeys
from r0.records import Sampled
from r0.rerank.fusion import fuse
from r0.rerank.job import Job, Outcome
from r0.rerank.judge import EngineRequest, Judge, QueryRefused
from r0.rerank.methods import method_of
from r0.rerank.protocol import MethodRun, Question, Ranking, Reply

REFILL_BELOW = 0.75  # fetch jobs in batches, while the engine still has waiting requests


@dataclass
class _Query:
    """A job in progress."""

    job: Job
    method_run: MethodRun
    began: float  # clock, in seconds
    replies: list[tuple[int, Question, Reply]] = field(default_factory=list)  # (number of the question, question, reply)
    asked: int = 0
    prompt_tokens: int = 0
    refused: str = ""


@dataclass
class _PendingQuestion:
    """A question in progress."""

    query: _Query
    question: Question
    number: int  # sequence number within the query
    generator: Generator[EngineRequest, Sampled, Reply]


class Scheduler:
    """Works on many jobs at once.

    Args:
        engine: an engine in this process.
        judge: creates requests and replies for its model.
        keys: the configuration.
        in_flight: new jobs are started while fewer requests than this are in flight.
    """

    def __init__(self, engine: Engine, judge: Judge, keys: RankingKeys, in_flight: int):
        self._engine, self._judge, self._keys, self._in_flight = engine, judge, keys, in_flight
        self._waiting: deque[Job] = deque()
        self._pending: dict[int, _PendingQuestion] = {}  # by the key of the request in flight
        self._next_key = 0
        self._done: list[Outcome] = []

    def add(self, job: Job) -> None:
        """Add a job."""
        self._waiting.append(job)

    def cancel(self, keys: Collection[int]) -> None:
        """Drop unfinished jobs: they have no outcome. Keys of other jobs are ignored."""
        self._waiting = deque(job for job in self._waiting if job.key not in keys)
        of_jobs = [key for key, pending in self._pending.items() if pending.query.job.key in keys]
        for key in of_jobs:
            del self._pending[key]
        self._engine.abort(of_jobs)

    @property
    def idle(self) -> bool:
        """Whether all work is done."""
        return not (self._waiting or self._pending or self._done)

    @property
    def wants_jobs(self) -> bool:
        """Whether more jobs are needed: none is waiting, and less than ``REFILL_BELOW`` of ``in_flight`` is in flight."""
        return not self._waiting and len(self._pending) < REFILL_BELOW * self._in_flight

    def step(self) -> list[Outcome]:
        """Start jobs while there is room, let the engine work for a moment, process its completions; return the finished jobs.

        A query that does not fit the prompt finishes with the first-stage order and a reason.

        Raises:
            UserError: the tokenizer cannot be used.
        """
        while self._waiting and len(self._pending) < self._in_flight:
            self._begin(self._waiting.popleft())
        for key, sampled in self._engine.step():
            self._advance(self._pending.pop(key), sampled)
        done, self._done = self._done, []
        return done

    def _begin(self, job: Job) -> None:
        query = _Query(job, MethodRun(method_of(self._keys, job)), time.monotonic())
        self._submit(query, query.method_run.questions)

    def _submit(self, query: _Query, questions: list[Question]) -> None:
        """Submit questions; if none is left the query is done."""
        for question in questions:
            if query.refused:
                return
            pending = _PendingQuestion(query, question, query.asked, self._judge.reply_to(query.job, question))
            query.asked += 1
            self._advance(pending, None)
        if query.method_run.ranking is not None:
            self._finish(query, query.method_run.ranking)

    def _advance(self, pending: _PendingQuestion, sampled: Sampled | None) -> None:
        """Send a completion (None at the start) to the question's generator, and submit the next request or pass on the reply."""
        if pending.query.refused:
            return
        try:
            wanted = next(pending.generator) if sampled is None else pending.generator.send(sampled)
        except StopIteration as done:
            query = pending.query
            query.replies.append((pending.number, pending.question, done.value))
            self._submit(query, query.method_run.answer(pending.question, done.value))
            return
        except QueryRefused as error:
            pending.query.refused = str(error)
            self._finish(pending.query, Ranking.of_order(range(len(pending.query.job.documents))))
            return
        pending.query.prompt_tokens += len(wanted.request.prompt_ids)
        key, self._next_key = self._next_key, self._next_key + 1
        self._pending[key] = pending
        self._engine.submit(key, wanted.request, wanted.temperature, wanted.max_new_tokens, wanted.greedy)

    def _finish(self, query: _Query, ranking: Ranking) -> None:
        job = query.job
        if job.scores and job.documents and not query.refused:
            ranking = fuse(ranking, job.scores, self._keys.fusion_weight)
        # Samples run in parallel, so question numbers depend on timing; within a sample they are in sequence.
        ordered = sorted(query.replies, key=lambda one: (one[1].sample % self._keys.samples, one[0], one[1].documents))
        self._done.append(
            Outcome(
                job.key,
                ranking,
                tuple((question, reply) for _, question, reply in ordered),
                query.prompt_tokens,
                sum(reply.tokens for _, _, reply in ordered),
                time.monotonic() - query.began,
                query.refused,
            )
        )
