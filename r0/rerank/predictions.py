"""Scores of many documents from a reranker: of each one alone, or in the ranking of its list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from r0.errors import UserError
from r0.rerank.job import Job, Outcome
from r0.rerank.pair_inputs import by_query, valid_text
from r0.rerank.protocol import with_tail
from r0.runs.live import progress

PREDICT_PAIRS = 64  # pairs of one query that are one job


class Runner(Protocol):
    """What runs jobs: a ``Reranker``."""

    def job(self, query_id: str, query: str, documents: Sequence[str], scores: Sequence[float] = (), each: bool = False) -> Job:
        """Create a job."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """The outcomes of jobs as they finish."""


def list_scores(reranker: Runner, lists: Sequence[tuple[str, str, list[str]]], shown: bool) -> np.ndarray:
    """float64 [N] the score of each document in the ranking of its list (query id, query, documents), list after list.

    Raises:
        UserError: a query does not fit the prompt.
    """
    jobs = [reranker.job(name, query, documents) for name, query, documents in lists]
    sizes = {job.key: len(documents) for job, (_, _, documents) in zip(jobs, lists, strict=True)}
    found: dict[int, tuple[float, ...]] = {}
    outcomes = reranker.run(jobs)
    for outcome in progress(outcomes, "ranking", len(jobs)) if shown else outcomes:
        check_fits(outcome)
        found[outcome.key] = with_tail(outcome.ranking, sizes[outcome.key]).scores
    return np.array([score for job in jobs for score in found[job.key]], np.float64)


def pair_scores(reranker: Runner, pairs: Sequence[tuple[str, str]], shown: bool) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N] the score of each (query, document) pair, NaN without a finite one; and its logit, then 0.

    Raises:
        UserError: a query does not fit the prompt.
    """
    jobs: dict[int, tuple[Job, Sequence[int]]] = {}
    for numbers in by_query(pairs, PREDICT_PAIRS):
        query = pairs[numbers[0]][0]
        job = reranker.job(valid_text(query), query, [pairs[number][1] for number in numbers], each=True)
        jobs[job.key] = job, numbers
    found_N, logits_N = np.full(len(pairs), np.nan), np.zeros(len(pairs))
    outcomes = reranker.run(job for job, _numbers in jobs.values())
    for outcome in progress(outcomes, "scoring", len(jobs)) if shown else outcomes:
        check_fits(outcome)
        for ask, reply in outcome.replies:
            if reply.probability is not None:
                number = jobs[outcome.key][1][ask.documents[0]]
                found_N[number], logits_N[number] = reply.probability, reply.logit or 0.0
    return found_N, logits_N


def check_fits(outcome: Outcome) -> None:
    """Refuse the outcome of a query that does not fit the prompt.

    Raises:
        UserError: with the reason.
    """
    if outcome.refused:
        raise UserError(outcome.refused)
