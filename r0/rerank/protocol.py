"""The protocol between a rerank method and its driver.

A method is a generator over the n candidates of one query. It yields its new questions, is sent one answered question at a
time, in any order, and returns a ``Ranking``; an empty list means that it waits for pending answers. So a scheduler can keep
questions of many queries in flight, and a question waits only for those it depends on. Methods know no model, no text and no
clock: the same replies give the same ranking, in whatever order they arrive.

Candidates are positions in the query's first-stage order: 0 is the first stage's best.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from r0.records import Answer, Form, Violation


@dataclass(frozen=True, slots=True)
class Question:
    """One question to the model about some candidates of a query. The pending questions of a method are all different."""

    documents: tuple[int, ...]  # first-stage positions, in the order shown
    form: Form  # YES_NO (one document), PERMUTATION, PICK, SCORES
    sample: int = 0  # hashed into its sampling seed, with the run's seed, the query and the documents


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply about M documents, parsed leniently (``r0.text.lenient_answers``); it always has an order."""

    # Positions in ``Question.documents``, each once, best first. Positions in one group are tied, or all missing from the
    # answer (the last group). If nothing was readable there is a single group.
    groups: tuple[tuple[int, ...], ...]
    # [M] Form.SCORES: by position in ``Question.documents``, in the model's own scale; None: not scored
    scores: tuple[float | None, ...] | None = None
    probability: float | None = None  # Form.YES_NO: P(yes) over yes and no, or a cross-encoder's score; None: not available
    failures: frozenset[Violation] = frozenset()
    thought: str = ""
    tokens: int = 0  # number of sampled tokens
    answer: Answer | None = None  # verdicts only (``Job.samples``): the stated answer; None: unreadable
    think_tokens: int = 0  # verdicts only: sampled tokens in the thought
    cut_tokens: int = 0  # verdicts only: tokens of the document that did not fit the prompt
    logit: float | None = None  # Form.YES_NO: logit(yes) − logit(no), or a cross-encoder's score before its activation
    forced: bool = False  # whether the thought reached ``Job.max_think_tokens`` and was closed there


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order of a query's n candidates."""

    order: tuple[int, ...]  # [n] first-stage positions, best first
    scores: tuple[float, ...]  # [n] by first-stage position, strictly decreasing along ``order``, also in single precision

    @classmethod
    def of_order(cls, order: Sequence[int]) -> Ranking:
        """A ranking with scores derived from the order: evenly spaced from 1 for the best to 1/n for the last."""
        scores = [0.0] * len(order)
        for rank, position in enumerate(order):
            scores[position] = 1.0 - rank / len(order)
        return cls(tuple(order), tuple(scores))

    @classmethod
    def of_scores(cls, values: Sequence[float | None], finer: Sequence[float | None] = ()) -> Ranking:
        """The candidates by value, highest first; equal values by the ``finer`` ones, if given, then in first-stage order.

        A candidate without a value keeps its first-stage rank; the others are sorted over the remaining ranks. Scores are the
        values. Where they would not decrease, they are lowered by the smallest step in single precision, since trec_eval
        reads single precision and breaks ties by document id.
        """
        if all(value is None for value in values):
            return cls.of_order(range(len(values)))
        finest = [value or 0.0 for value in finer] or [0.0] * len(values)
        known = sorted((-value, -finest[at], at) for at, value in enumerate(values) if value is not None)
        best_first = iter(known)
        order = [position if value is None else next(best_first)[2] for position, value in enumerate(values)]
        scores = [0.0] * len(values)
        last, previous = -known[0][0], np.float32(np.inf)
        for position in order:
            value = values[position]
            last = last if value is None else value
            if np.float32(last) >= previous:
                last = float(np.nextafter(previous, np.float32(-np.inf)))
            scores[position], previous = last, np.float32(last)
        return cls(tuple(order), tuple(scores))


Method: TypeAlias = Generator[list[Question], tuple[Question, Reply], Ranking]


class MethodRun:
    """A method in progress. ``questions`` are its first questions; ``ranking`` is set when it is done."""

    def __init__(self, method: Method):
        self._method = method
        self.ranking: Ranking | None = None
        self.questions = self._advance(None)

    def answer(self, question: Question, reply: Reply) -> list[Question]:
        """Send one reply to the method; return the questions that follow."""
        return self._advance((question, reply))

    def _advance(self, answered: tuple[Question, Reply] | None) -> list[Question]:
        try:
            return next(self._method) if answered is None else self._method.send(answered)
        except StopIteration as done:
            self.ranking = done.value
            return []


def drive(method: Method, answer: Callable[[Question], Reply]) -> Ranking:
    """Run a method to its end, one question after another."""
    method_run = MethodRun(method)
    waiting = deque(method_run.questions)
    while method_run.ranking is None:
        question = waiting.popleft()
        waiting.extend(method_run.answer(question, answer(question)))
    return method_run.ranking


def best_first(question: Question, reply: Reply) -> tuple[int, ...]:
    """The candidates of a question in the order of its reply; the documents of a group in the order shown.

    Raises:
        ValueError: the reply's groups do not contain each shown document exactly once.
    """
    order = [i for group in reply.groups for i in sorted(group)]
    if sorted(order) != list(range(len(question.documents))):
        raise ValueError(f"a reply's groups must hold each of 0…{len(question.documents) - 1} once, not {reply.groups}")
    return tuple(question.documents[i] for i in order)


def with_tail(ranking: Ranking, n: int) -> Ranking:
    """The ranking of the top candidates, followed by the rest of the n candidates in first-stage order.

    The scores of the rest decrease from the lowest in steps of 1; they only express the order.
    """
    head = len(ranking.order)
    lowest = ranking.scores[ranking.order[-1]] if head else 0.0
    tail = tuple(range(head, n))
    return Ranking(ranking.order + tail, ranking.scores + tuple(lowest - 1.0 - i for i in range(len(tail))))
