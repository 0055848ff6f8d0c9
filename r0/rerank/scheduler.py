"""Many queries on one engine: every ask that waits for nothing is in flight, those of many queries together.

The engine works on the requests of all queries at once. A query's next ask follows from its last reply; nothing waits for another
query. What is in flight beside a request changes nothing in its completion (seeds are addressed), so neither does the order in
which replies come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field

from r0.actors.rollout.engine import Engine
from r0.config import RankingKeys
from r0.records import Sampled
from r0.rerank.asks import Ask, Exchange, Ranking, Reply
from r0.rerank.fusion import fuse
from r0.rerank.job import Job, Outcome
from r0.rerank.judge import Judge, QueryRefused, Wanted
from r0.rerank.methods import method_of

ENOUGH = 0.75  # so jobs come in batches, not one by one, while the engine still has requests that it has not begun


@dataclass
class _Query:
    """A job in progress."""

    job: Job
    exchange: Exchange
    began: float  # clock, in seconds
    replies: list[tuple[int, Ask, Reply]] = field(default_factory=list)  # with the number of the ask
    asked: int = 0
    prompt_tokens: int = 0
    refused: str = ""


@dataclass
class _Talk:
    """An ask in progress."""

    query: _Query
    ask: Ask
    number: int  # of the query's asks
    talk: Generator[Wanted, Sampled, Reply]


class Scheduler:
    """Works on jobs, many at a time.

    Args:
        engine: an engine in this process.
        judge: asks and replies of its model.
        keys: the configuration.
        in_flight: jobs are begun while fewer requests than this are in flight.
    """

    def __init__(self, engine: Engine, judge: Judge, keys: RankingKeys, in_flight: int):
        self._engine, self._judge, self._keys, self._in_flight = engine, judge, keys, in_flight
        self._waiting: deque[Job] = deque()
        self._talks: dict[int, _Talk] = {}  # by the key of the request in flight
        self._next_key = 0
        self._done: list[Outcome] = []

    def add(self, job: Job) -> None:
        """Take a job in."""
        self._waiting.append(job)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not (self._waiting or self._talks or self._done)

    @property
    def hungry(self) -> bool:
        """Whether more jobs should come: nothing waits, and less than ``ENOUGH`` of what may be in flight is."""
        return not self._waiting and len(self._talks) < ENOUGH * self._in_flight

    def step(self) -> list[Outcome]:
        """Begin what there is room for, let the engine work for a moment, take its replies; gives the jobs that are done.

        A query that cannot be shown to the model is done with the given order, and says why.

        Raises:
            UserError: the tokenizer cannot be used.
        """
        while self._waiting and len(self._talks) < self._in_flight:
            self._begin(self._waiting.popleft())
        for key, sampled in self._engine.step():
            self._advance(self._talks.pop(key), sampled)
        done, self._done = self._done, []
        return done

    def _begin(self, job: Job) -> None:
        query = _Query(job, Exchange(method_of(self._keys, job)), time.monotonic())
        self._ask(query, query.exchange.asks)

    def _ask(self, query: _Query, asks: list[Ask]) -> None:
        """Put asks in flight; with none left to answer the query is done."""
        for ask in asks:
            if query.refused:
                return
            talk = _Talk(query, ask, query.asked, self._judge.converse(query.job, ask))
            query.asked += 1
            self._advance(talk, None)
        if query.exchange.ranking is not None:
            self._finish(query, query.exchange.ranking)

    def _advance(self, talk: _Talk, sampled: Sampled | None) -> None:
        """Send a completion (none at the beginning) and submit what is wanted next, or hand the reply on."""
        if talk.query.refused:
            return
        try:
            wanted = next(talk.talk) if sampled is None else talk.talk.send(sampled)
        except StopIteration as done:
            query = talk.query
            query.replies.append((talk.number, talk.ask, done.value))
            self._ask(query, query.exchange.answer(talk.ask, done.value))
            return
        except QueryRefused as error:
            talk.query.refused = str(error)
            self._finish(talk.query, Ranking.of_order(range(len(talk.query.job.documents))))
            return
        talk.query.prompt_tokens += len(wanted.request.prompt_ids)
        key, self._next_key = self._next_key, self._next_key + 1
        self._talks[key] = talk
        self._engine.submit(key, wanted.request, wanted.temperature, wanted.max_new_tokens, wanted.greedy)

    def _finish(self, query: _Query, ranking: Ranking) -> None:
        job = query.job
        if job.scores and job.documents and not query.refused:
            ranking = fuse(ranking, job.scores, self._keys.fusion_weight)
        # Samples run side by side, so the numbers of their asks depend on the clock; within a sample they follow each other.
        ordered = sorted(query.replies, key=lambda one: (one[1].sample % self._keys.samples, one[0], one[1].documents))
        self._done.append(
            Outcome(
                job.key,
                ranking,
                tuple((ask, reply) for _, ask, reply in ordered),
                query.prompt_tokens,
                sum(reply.tokens for _, _, reply in ordered),
                time.monotonic() - query.began,
                query.refused,
            )
        )
