"""Runs jobs on a reranker and stores each outcome as it finishes, so that an interrupted run can resume."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

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


def finish(keys: RankingKeys, work: Work, store: ResumableJsonl, total: int, stop: StopRequest) -> Session | None:
    """Start the engines and do the work left of ``total`` items, of which ``store`` has the finished ones. Returns None if a
    signal stopped it.

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
            with stop.at_once():
                reranker = stack.enter_context(Reranker.of(keys))
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
