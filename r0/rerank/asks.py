"""What a rerank method and whoever drives it say to each other.

A method is a generator over the n candidates of one query. It yields the asks that it newly has, is sent one answered ask at a
time, in whatever order they come, and returns a ``Ranking``; where it yields an empty list it waits for others. So a scheduler
can keep the asks of many queries in flight, and an ask waits only for those it follows from. Methods know no model, no text and
no clock: the same replies give the same ranking, whatever the order in which they arrive.

Candidates are positions in the query's given order: 0 is the first stage's best.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from r0.records import Answer, Form, Violation


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to the model about some of a query's candidates. The asks that a method waits for differ."""

    documents: tuple[int, ...]  # given positions, in the order shown
    form: Form  # YES_NO (one document), PERMUTATION, PICK, SCORES
    sample: int = 0  # part of the address of its seed, with the run's seed, the query and the documents


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply about M documents, parsed leniently (``r0.text.answers.LenientReading``); it always has an order."""

    # Positions in ``Ask.documents``, each once, best first. Those of a group are not told apart: tied, or left out by the answer
    # (then it is the last group). Where nothing was read, all are one group.
    groups: tuple[tuple[int, ...], ...]
    scores: tuple[float | None, ...] | None = None  # [M] Form.SCORES: by position in ``Ask.documents``; None: not scored
    probability: float | None = None  # Form.YES_NO: of yes, over yes and no, or a cross-encoder's score; None: not to be had
    failures: frozenset[Violation] = frozenset()
    thought: str = ""
    tokens: int = 0  # sampled
    answer: Answer | None = None  # of a verdict (``Job.samples``): as the model states it; None: it cannot be read
    think_tokens: int = 0  # of a verdict: sampled within the thought
    cut_tokens: int = 0  # of a verdict: of the document, which did not fit the prompt
    logit: float | None = None  # Form.YES_NO: logit(yes) − logit(no), or a cross-encoder's score before its activation


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order of a query's n candidates."""

    order: tuple[int, ...]  # [n] given positions, best first
    scores: tuple[float, ...]  # [n] by given position, strictly decreasing along ``order``, in single precision too

    @classmethod
    def of_order(cls, order: Sequence[int]) -> Ranking:
        """A ranking whose scores say no more than the order: evenly spaced from 1 for the best to 1/n for the last."""
        scores = [0.0] * len(order)
        for rank, position in enumerate(order):
            scores[position] = 1.0 - rank / len(order)
        return cls(tuple(order), tuple(scores))

    @classmethod
    def of_scores(cls, values: Sequence[float | None]) -> Ranking:
        """The candidates by value, highest first, equal ones in the given order.

        A candidate without a value keeps its given rank (a failure leaves the first stage's opinion), and the others are sorted
        over the ranks left. Scores are the values, lowered by as little as single precision tells apart where they would not
        decrease: trec_eval reads them so, and breaks ties by document id.
        """
        if all(value is None for value in values):
            return cls.of_order(range(len(values)))
        known = sorted((-value, position) for position, value in enumerate(values) if value is not None)
        best_first = iter(known)
        order = [position if value is None else next(best_first)[1] for position, value in enumerate(values)]
        scores = [0.0] * len(values)
        last, previous = -known[0][0], np.float32(np.inf)
        for position in order:
            value = values[position]
            last = last if value is None else value
            if np.float32(last) >= previous:
                last = float(np.nextafter(previous, np.float32(-np.inf)))
            scores[position], previous = last, np.float32(last)
        return cls(tuple(order), tuple(scores))


Method: TypeAlias = Generator[list[Ask], tuple[Ask, Reply], Ranking]


class Exchange:
    """A method in progress: ``asks`` are those it began with, ``ranking`` is set when it is done."""

    def __init__(self, method: Method):
        self._method = method
        self.ranking: Ranking | None = None
        self.asks = self._advance(None)

    def answer(self, ask: Ask, reply: Reply) -> list[Ask]:
        """Tell the method one reply; gives the asks that follow from it."""
        return self._advance((ask, reply))

    def _advance(self, answered: tuple[Ask, Reply] | None) -> list[Ask]:
        try:
            return next(self._method) if answered is None else self._method.send(answered)
        except StopIteration as done:
            self.ranking = done.value
            return []


def drive(method: Method, answer: Callable[[Ask], Reply]) -> Ranking:
    """Run a method to its end, one ask after another."""
    exchange = Exchange(method)
    waiting = deque(exchange.asks)
    while exchange.ranking is None:
        ask = waiting.popleft()
        waiting.extend(exchange.answer(ask, answer(ask)))
    return exchange.ranking


def best_first(ask: Ask, reply: Reply) -> tuple[int, ...]:
    """The candidates of an ask in the order of its reply, those that are not told apart as they were shown.

    Raises:
        ValueError: the reply's groups do not hold each shown document once.
    """
    order = [i for group in reply.groups for i in sorted(group)]
    if sorted(order) != list(range(len(ask.documents))):
        raise ValueError(f"a reply's groups must hold each of 0…{len(ask.documents) - 1} once, not {reply.groups}")
    return tuple(ask.documents[i] for i in order)


def with_tail(ranking: Ranking, n: int) -> Ranking:
    """The ranking of a list's head, followed by the rest of its n candidates in the given order.

    The scores of the rest go down from the lowest in steps of 1: they say nothing but the order.
    """
    head = len(ranking.order)
    lowest = ranking.scores[ranking.order[-1]] if head else 0.0
    tail = tuple(range(head, n))
    return Ranking(ranking.order + tail, ranking.scores + tuple(lowest - 1.0 - i for i in range(len(tail))))
