"""Parses a stated verdict: one thought, then yes or no, in answer tags or as everything after the thought.

Used for annotation, whose output is rewritten in r0's format. So the word is accepted in any case and with punctuation around
it (``**Yes.**``), but not with other words. The thought is ignored. Accepts any text, in linear time.
"""

from __future__ import annotations

from typing import NamedTuple

from r0.records import Answer, Violation
from r0.text.completion import ANSWER, THINK, parse
from r0.text.tags import strip_thought_tags

_OF_THOUGHTS = frozenset({Violation.NO_THINK, Violation.UNCLOSED_THINK, Violation.REPEATED_THINK})
_MARKS = "*_`\"'.!“”‘’"
_WORDS = {answer.value: answer for answer in Answer}


class ParsedVerdict(NamedTuple):
    """``answer`` is set if there are no ``failures``; ``thought`` is the content of the first think pair, without tags."""

    thought: str
    answer: Answer | None
    failures: frozenset[Violation]


def read_verdict(text: str) -> ParsedVerdict:
    """Parse a completion, including the tag that the chat template opened before it."""
    parsed = parse(text)
    failures = parsed.violations & _OF_THOUGHTS
    start, end = parsed.think or (0, 0)
    thought = strip_thought_tags(text[start:end])
    if failures:
        return ParsedVerdict(thought, None, frozenset(failures))
    if not thought:
        return ParsedVerdict("", None, frozenset({Violation.NO_THINK}))
    said = text[end + len(THINK[1]) :]
    if said.count(ANSWER[0]) > 1:
        return ParsedVerdict(thought, None, frozenset({Violation.REPEATED_ANSWER}))
    _, tag, inside = said.partition(ANSWER[0])
    word = (inside.partition(ANSWER[1])[0] if tag else said).strip().strip(_MARKS).strip().casefold()
    if not word:
        return ParsedVerdict(thought, None, frozenset({Violation.NO_ANSWER}))
    answer = _WORDS.get(word)
    return ParsedVerdict(thought, answer, frozenset() if answer else frozenset({Violation.BAD_ANSWER}))
