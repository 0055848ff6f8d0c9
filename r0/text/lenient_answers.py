"""Parses as much of a model's answer as possible, for inference only.

Read is what follows the last ``</think>``: the last pair of answer tags, or everything from an unclosed ``<answer>``, or, without
any tag, the whole rest. Ids in a thought are ignored, unknown ids are dropped, the first of repeated ids is kept, and missing
ids are appended in the order shown. If nothing can be read, the result is the order shown, with the failures named.

The documents of a list (``r0.text.mentions``) may be written in digits of any script, and in brackets or after a word such as
``Passage``. A score may be any number: only the order within an answer counts, and methods average scores of one query, so the
scale of a model (0 to 1, 0 to 100) is its own.
"""

from __future__ import annotations

import math
import re
from itertools import groupby
from typing import NamedTuple

from r0.ranking import Groups
from r0.records import Form, Violation
from r0.text.answers import id_violations, json_pairs, places_of, read_strict
from r0.text.mentions import mentions, plain_digits

_NOTHING: frozenset[Violation] = frozenset()
_LARGEST_SCORE = 1e9  # larger ones, whose sums could overflow, are not scores
_KEY = re.compile(r"[^0-9]*+0*+([0-9]++)[^0-9]*+")  # the number in a JSON key: "2", "[02]", "Passage 2"
_NUMBER = r"[-−]?+[0-9]{1,400}+(?:\.[0-9]{1,400}+)?+(?:[eE][+-]?+[0-9]{1,4}+)?+"
_VALUE = re.compile(_NUMBER)
_SCORE = re.compile(rf"\[?0*+([0-9]{{1,9}}+)\]?[\"']?\s*+[:=]\s*+[\"']?({_NUMBER})(?!\.?[0-9])")


class LenientReading(NamedTuple):
    """The result of lenient parsing. ``groups``: all N documents, best first. Documents in one group are tied, or all missing
    from the answer (the last group); if nothing could be read there is a single group. ``scores`` [N]: for ``Form.SCORES``, in
    the model's own scale, None for documents without a score. ``failures``: what could not be read; empty if everything could.
    """

    groups: Groups
    scores: tuple[float | None, ...] | None
    failures: frozenset[Violation]

    @property
    def order(self) -> tuple[int, ...]:
        """All N documents, best first; the documents of a group in the order shown."""
        return tuple(place for group in self.groups for place in group)


def read_lenient(text: str, form: Form, size: int, prefix: str = "") -> LenientReading:
    """Parse as much of a completion as possible. Tied and missing documents keep the order shown.

    Args:
        text: the completion.
        form: the requested form.
        size: number of documents N.
        prefix: a tag that the chat template already opened.
    """
    content, failures = _answer_content(prefix + text, untagged=form is not Form.YES_NO)
    shown = tuple(range(size))
    if content is None:
        return LenientReading((shown,), (None,) * size if form is Form.SCORES else None, failures)
    strict = read_strict(content, form, size)
    if form is Form.SCORES:
        scores, more = (strict.scores, _NOTHING) if strict.scores else _scores(content, size)
        # Documents with a score come first, best first. The sort is stable, so equal scores keep the order shown.
        order = sorted(shown, key=lambda place: _descending(scores[place]))
        levels = tuple(tuple(level) for _, level in groupby(order, key=lambda place: scores[place]))
        return LenientReading(levels, scores, failures | more)
    if form is Form.YES_NO:
        return LenientReading((shown,), None, failures | strict.violations)
    groups, more = (strict.ranking, _NOTHING) if strict.ranking else _order(content, form, size)
    left_out = set(shown).difference(place for group in groups for place in group)
    levels = (*map(tuple, groups), tuple(place for place in shown if place in left_out))
    return LenientReading(tuple(level for level in levels if level), None, failures | more)


def _answer_content(text: str, untagged: bool) -> tuple[str | None, frozenset[Violation]]:
    """The stripped content of the answer to be read (None if there is none), and the violations in its tags.

    Text without an answer tag is an answer only if ``untagged``.
    """
    thought = text.rfind("</think>")
    if thought < 0 and "<think>" in text:
        return None, frozenset({Violation.UNCLOSED_THINK, Violation.NO_ANSWER})
    text = text[thought + len("</think>") :] if thought >= 0 else text
    close = text.rfind("</answer>")
    opening = text.rfind("<answer>", 0, max(close, 0))
    found = set()
    if opening < 0:  # no pair
        opening, close = text.rfind("<answer>"), len(text)
        if opening < 0:
            return text.strip() if untagged and text.strip() else None, frozenset({Violation.NO_ANSWER})
        found.add(Violation.UNCLOSED_ANSWER)
    if text.count("<answer>") > 1:
        found.add(Violation.REPEATED_ANSWER)
    return text[opening + len("<answer>") : close].strip(), frozenset(found)


def _order(content: str, form: Form, size: int) -> tuple[list[list[int]], frozenset[Violation]]:
    """Groups of known documents, first mentions only."""
    found = mentions(content, size)
    if not found:
        return [], frozenset({Violation.BAD_ANSWER if form is Form.PICK else Violation.NOT_A_PERMUTATION})
    places = [mention.place for mention in found]
    if form is Form.PICK:  # take the first known one; naming more than one is a failure
        picked = next((place for place in places if place is not None), None)
        wrong = {Violation.UNKNOWN_ID: None in places, Violation.BAD_ANSWER: len(places) > 1}
        return [] if picked is None else [[picked]], frozenset(name for name, holds in wrong.items() if holds)
    groups: list[list[int]] = []
    seen: set[int] = set()
    for place, tied in found:
        if not groups or not tied:
            groups.append([])
        if place is not None and place not in seen:
            seen.add(place)
            groups[-1].append(place)
    return [sorted(group) for group in groups], id_violations(places, size)


def _scores(content: str, size: int) -> tuple[tuple[float | None, ...], frozenset[Violation]]:
    """The first score of each known document.

    If any score is too large to count, none is used: the document would otherwise fall behind all others.
    """
    content = plain_digits(content)
    as_json = [(_place(key, size), _value(value)) for key, value in json_pairs(content) or ()]
    as_text = [(_place(match[1], size), _value(match[2])) for match in _SCORE.finditer(content)]
    found = max(as_json, as_text, key=_readable)  # JSON if both are equally readable
    scores: list[float | None] = [None] * size
    for place, value in found:
        if place is not None and scores[place] is None:
            scores[place] = value
    wrong = id_violations([place for place, _ in found], size)
    if not found or any(value is None for _, value in found):
        wrong |= {Violation.BAD_ANSWER}
    if any(score is not None and abs(score) > _LARGEST_SCORE for score in scores):
        return (None,) * size, wrong | {Violation.BAD_ANSWER}
    return tuple(scores), wrong


def _place(key: str, size: int) -> int | None:
    match = _KEY.fullmatch(key)
    return places_of(size).get(match[1]) if match else None


def _value(value: object) -> float | None:
    """A score as a number or as text; infinity if it is too large for a float; None if it is neither."""
    if isinstance(value, str) and _VALUE.fullmatch(value.strip()):
        value = float(value.strip().replace("−", "-"))
    if not isinstance(value, float) or math.isnan(value):
        return None
    return value + 0.0  # -0.0 becomes 0.0


def _readable(found: list[tuple[int | None, float | None]]) -> int:
    return sum(place is not None and value is not None for place, value in found)


def _descending(score: float | None) -> tuple[bool, float]:
    return (score is None, -(score or 0.0))
