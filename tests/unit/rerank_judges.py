"""What answers the asks in the tests of the rerank methods, and ways to drive a method."""

import random

from r0.data.hashes import hash_key, shuffled
from r0.records import Form, Violation
from r0.rerank.asks import Ask, Exchange, Reply


def perfect(worth):
    """Knows what every document is worth (0 to 1) and says so in every form; equal ones tied."""

    def answer(ask: Ask) -> Reply:
        worths = [worth[document] for document in ask.documents]
        groups = tuple(tuple(i for i, one in enumerate(worths) if one == level) for level in sorted(set(worths), reverse=True))
        if ask.form is Form.PICK:  # only the first is an opinion
            best = groups[0][0]
            groups = ((best,), tuple(i for i in range(len(worths)) if i != best))
        if ask.form is Form.SCORES:
            return Reply(groups, scores=tuple(10.0 * one for one in worths))
        return Reply(groups, probability=worths[0] if ask.form is Form.YES_NO else None)

    return answer


def nonsense(ask: Ask) -> Reply:
    """Says nothing that could be read."""
    return Reply((tuple(range(len(ask.documents))),), failures=frozenset({Violation.NO_ANSWER}))


def inconsistent(seed):
    """Contradicts itself and fails now and then, but says the same to the same ask."""

    def answer(ask: Ask) -> Reply:
        dice = hash_key(seed, ask.form, ask.sample, *ask.documents)
        if dice % 4 == 0:
            return nonsense(ask)
        shuffle = shuffled(len(ask.documents), dice)
        tied = min(dice % 5, len(shuffle))
        groups = (*((i,) for i in shuffle[tied:]), *([tuple(shuffle[:tied])] if tied else []))
        if ask.form is Form.SCORES:
            return Reply(groups, scores=tuple(None if i % 3 == 0 else float((dice >> i) % 11) for i in shuffle))
        return Reply(groups, probability=dice % 1000 / 999 if ask.form is Form.YES_NO else None)

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
