"""A verdict as a model states it: one thought, then yes or no, within answer tags or as all that follows the thought.

Read for annotation, where what is kept is written anew: the word counts in any case and with marks around it (``**Yes.**``), but
no other words may stand beside it. Nothing is read out of the thought. Total, and in linear time.
"""

from __future__ import annotations

from typing import NamedTuple

from r0.records import Answer, Violation
from r0.text.completion import ANSWER, THINK, parse
from r0.text.tags import strip_thought_tags

_OF_THOUGHTS = frozenset({Violation.NO_THINK, Violation.UNCLOSED_THINK, Violation.REPEATED_THINK})
_MARKS = "*_`\"'.!“”‘’"
_WORDS = {answer.value: answer for answer in Answer}


class Stated(NamedTuple):
    """``answer`` is set where there are no ``failures``; ``thought`` is what stands in the first think pair, bare of tags."""

    thought: str
    answer: Answer | None
    failures: frozenset[Violation]


def read_stated(text: str) -> Stated:
    """Read a completion, the tag that the chat template opened in front of it."""
    parsed = parse(text)
    failures = parsed.violations & _OF_THOUGHTS
    start, end = parsed.think or (0, 0)
    thought = strip_thought_tags(text[start:end])
    if failures:
        return Stated(thought, None, frozenset(failures))
    if not thought:
        return Stated("", None, frozenset({Violation.NO_THINK}))
    said = text[end + len(THINK[1]) :]
    if said.count(ANSWER[0]) > 1:
        return Stated(thought, None, frozenset({Violation.REPEATED_ANSWER}))
    _, tag, inside = said.partition(ANSWER[0])
    word = (inside.partition(ANSWER[1])[0] if tag else said).strip().strip(_MARKS).strip().casefold()
    if not word:
        return Stated(thought, None, frozenset({Violation.NO_ANSWER}))
    answer = _WORDS.get(word)
    return Stated(thought, answer, frozenset() if answer else frozenset({Violation.BAD_ANSWER}))
