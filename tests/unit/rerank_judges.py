"""Judges that answer the questions in the tests of the rerank methods, and helpers to drive a method."""

import random

from r0.data.hashes import hash_key, shuffled
from r0.records import Form, Violation
from r0.rerank.protocol import MethodRun, Question, Reply


def perfect(worth):
    """Knows what every document is worth (0 to 1) and says so in every form; equal ones tied."""

    def answer(question: Question) -> Reply:
        worths = [worth[document] for document in question.documents]
        groups = tuple(tuple(i for i, one in enumerate(worths) if one == level) for level in sorted(set(worths), reverse=True))
        if question.form is Form.PICK:  # only the first is an opinion
            best = groups[0][0]
            groups = ((best,), tuple(i for i in range(len(worths)) if i != best))
        if question.form is Form.SCORES:
            return Reply(groups, scores=tuple(10.0 * one for one in worths))
        return Reply(groups, probability=worths[0] if question.form is Form.YES_NO else None)

    return answer


def nonsense(question: Question) -> Reply:
    """Says nothing that could be read."""
    return Reply((tuple(range(len(question.documents))),), failures=frozenset({Violation.NO_ANSWER}))


def inconsistent(seed):
    """Contradicts itself and fails now and then, but says the same to the same question."""

    def answer(question: Question) -> Reply:
        dice = hash_key(seed, question.form, question.sample, *question.documents)
        if dice % 4 == 0:
            return nonsense(question)
        shuffle = shuffled(len(question.documents), dice)
        tied = min(dice % 5, len(shuffle))
        groups = (*((i,) for i in shuffle[tied:]), *([tuple(shuffle[:tied])] if tied else []))
        if question.form is Form.SCORES:
            return Reply(groups, scores=tuple(None if i % 3 == 0 else float((dice >> i) % 11) for i in shuffle))
        return Reply(groups, probability=dice % 1000 / 999 if question.form is Form.YES_NO else None)

    return answer


def drive_in_any_order(method, answer, seed):
    """As ``drive``, but the replies come in a random order."""
    dice = random.Random(seed)
    method_run = MethodRun(method)
    waiting = list(method_run.questions)
    while method_run.ranking is None:
        assert len(set(waiting)) == len(waiting), "a method waits for the same question twice"
        question = waiting.pop(dice.randrange(len(waiting)))
        waiting += method_run.answer(question, answer(question))
    assert not waiting, "a method ended with questions under way"
    return method_run.ranking


class Recorded:
    """A judge that remembers what it was asked."""

    def __init__(self, answer):
        self._answer = answer
        self.questions = []

    def __call__(self, question):
        self.questions.append(question)
        return self._answer(question)
