"""Jobs for a reranker whose outcomes are kept as they are done, so that an interrupted run goes on from what is kept."""

from __future__ import annotations

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
    """What is to be asked and kept.

    ``left`` are the items without an outcome, so many as ``count``; ``job`` makes the job of an item, and ``keep`` takes its
    outcome or raises what is wrong with it. ``what``, ``done`` and ``doing`` name them for people: queries, scored, scoring.
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
    """What this process did of a run."""

    jobs: int = 0
    documents: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0  # sampled
    seconds: float = 0.0  # wall time, without the start of the engines


def finish(keys: RankingKeys, work: Work, store: ResumableJsonl, total: int, stop: StopRequest) -> Session | None:
    """Start the engines and do what is left of ``total`` pieces of work, of which ``store`` keeps what is done; None when a
    signal stopped it before the end.

    Raises:
        UserError: the engines cannot be started; what ``work`` finds wrong.
    """
    if len(store):
        print(f"{len(store)} {work.what} were {work.done} before", flush=True)
    session = Session()
    if work.count and not stop():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        with Reranker.of(keys) as reranker:
            stop.install()  # Ray has handlers of its own
            session = ask(reranker, work, stop)
    if len(store) < total and stop():
        print(f"stopped after {len(store)} of {total} {work.what}; the same command goes on with the others")
        return None
    return session


def ask(reranker: Reranker, work: Work[Item], stop: Callable[[], bool] = lambda: False) -> Session:
    """Ask a reranker about what is left, and keep its outcomes in the order in which they are done."""
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
