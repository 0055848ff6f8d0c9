"""What answers the asks in the tests of the rerank methods, and ways to drive a method."""

import random

from r0.data.hashes import Shuffle, address
from r0.records import Form, Violation
from r0.rerank.asks import Ask, Exchange, Reply


def perfect(worth):
    """Knows what every document is worth (0 to 1) and says so in every form; equal ones as they are shown."""

    def answer(ask: Ask) -> Reply:
        worths = [worth[document] for document in ask.documents]
        order = tuple(sorted(range(len(worths)), key=lambda i: (-worths[i], i)))
        if ask.form is Form.PICK:  # only the first is an opinion; the rest stands as shown
            order = (order[0], *(i for i in range(len(worths)) if i != order[0]))
        if ask.form is Form.SCORES:
            return Reply(order, scores=tuple(10.0 * one for one in worths))
        return Reply(order, probability=worths[0] if ask.form is Form.YES_NO else None)

    return answer


def nonsense(ask: Ask) -> Reply:
    """Says nothing that could be read."""
    return Reply(tuple(range(len(ask.documents))), failures=frozenset({Violation.NO_ANSWER}))


def inconsistent(seed):
    """Contradicts itself and fails now and then, but says the same to the same ask."""

    def answer(ask: Ask) -> Reply:
        dice = address(seed, ask.form, ask.sample, *ask.documents)
        if dice % 4 == 0:
            return nonsense(ask)
        shuffle = Shuffle(len(ask.documents), dice)
        order = tuple(shuffle[i] for i in range(len(shuffle)))
        if ask.form is Form.SCORES:
            return Reply(order, scores=tuple(None if place % 3 == 0 else float((dice >> place) % 11) for place in order))
        return Reply(order, probability=dice % 1000 / 999 if ask.form is Form.YES_NO else None)

    return answer


def drive_in_any_order(method, answer, seed):
    """As ``drive``, but the replies come in a random order."""
    dice = random.Random(seed)
    exchange = Exchange(method)
    waiting = list(exchange.asks)
    while exchange.ranking is None:
        assert len(set(waiting)) == len(waiting), "a method waits for the same ask twice"
        ask = waiting.pop(dice.randrange(len(waiting)))
        waiting += exchange.answer(ask, answer(ask))
    assert not waiting, "a method ended with asks under way"
    return exchange.ranking


class Recorded:
    """A judge that remembers what it was asked."""

    def __init__(self, answer):
        self._answer = answer
        self.asks = []

    def __call__(self, ask):
        self.asks.append(ask)
        return self._answer(ask)
