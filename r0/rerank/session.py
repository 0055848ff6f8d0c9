"""Runs jobs on a reranker and stores each outcome as it finishes, so that an interrupted run can resume.

``Engines`` keeps one reranker for several sessions.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from r0.config import RankingKeys
from r0.process.signals import StopRequest
from r0.rerank.job import Job, Outcome
from r0.rerank.reranker import Reranker
from r0.runs.live import progress
from r0.storage.resumable_jsonl import ResumableJsonl

Item = TypeVar("Item")


@dataclass(frozen=True)
class Work(Generic[Item]):
    """The jobs to run.

    ``left``: the ``count`` items without an outcome. ``job`` creates the job of an item; ``keep`` stores its outcome, or
    raises an error. ``what``, ``done`` and ``doing`` are words for messages: queries, scored, scoring.
    """

    left: Iterable[Item]
    count: int
    job: Callable[[Reranker, Item], Job]
    keep: Callable[[Item, Outcome], None]
    what: str
    done: str
    doing: str


@dataclass
class Session:
    """What this process has done of a run."""

    jobs: int = 0
    documents: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0  # sampled
    seconds: float = 0.0  # wall time, without the start of the engines


class Engines:
    """The reranker of a configuration, started where it is first needed and kept until ``close``. A context manager.

    Attributes:
        broken: whether it could not be started.
    """

    def __init__(self, keys: RankingKeys):
        self._keys, self.broken = keys, False
        self._reranker: Reranker | None = None

    def start(self) -> Reranker:
        """The reranker.

        Raises:
            UserError: it cannot be started.
        """
        if self._reranker is None:
            self.broken = True
            self._reranker = Reranker.of(self._keys)
            self.broken = False
        return self._reranker

    def close(self, gently: bool = True) -> None:
        """Stop the engines; ``start`` would start them anew. ``gently=False`` does not wait for what they are doing."""
        reranker, self._reranker = self._reranker, None
        if reranker is not None:
            reranker.close(gently)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(gently=kind is None)


def finish(
    keys: RankingKeys, work: Work, store: ResumableJsonl, total: int, stop: StopRequest, engines: Engines | None = None
) -> Session | None:
    """Start the engines and do the work left of ``total`` items, of which ``store`` has the finished ones. Returns None if a
    signal stopped it.

    ``engines``: those of ``keys`` that other sessions use too, which stay open; None: own ones.

    Raises:
        UserError: the engines cannot be started, or ``work`` raises it.
    """
    if len(store):
        print(f"{len(store)} {work.what} were {work.done} before", flush=True)
    session = Session()
    if work.count and not stop():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        with contextlib.ExitStack() as stack:
            used = engines if engines is not None else stack.enter_context(Engines(keys))
            with stop.at_once():
                reranker = used.start()
                stop.install()  # Ray has handlers of its own
            session = ask(reranker, work, stop)
    if len(store) < total and stop():
        print(f"stopped after {len(store)} of {total} {work.what}; run the same command again to resume")
        return None
    return session


def ask(reranker: Reranker, work: Work[Item], stop: Callable[[], bool] = lambda: False) -> Session:
    """Run the jobs that are left, and store their outcomes as they finish."""
    session, asked = Session(), dict[int, tuple[Item, Job]]()

    def jobs() -> Iterator[Job]:
        for item in work.left:
            job = work.job(reranker, item)
            asked[job.key] = item, job
            yield job

    began = time.monotonic()
    for outcome in progress(reranker.run(jobs(), stop), work.doing, work.count):
        item, job = asked.pop(outcome.key)
        work.keep(item, outcome)
        session.jobs += 1
        session.documents += len(job.documents)
        session.prompt_tokens += outcome.prompt_tokens
        session.new_tokens += outcome.new_tokens
        session.seconds = time.monotonic() - began
    return session
