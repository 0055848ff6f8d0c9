"""What stands between ``<answer>`` and ``</answer>``, read in two ways, and the answer to imitate. Total, and in linear time.

* *Strictly*, for rewards: a whole answer of the asked form, or the reasons why it is none. A permutation is bracketed numbers
  joined by ``>`` and ``=`` (tied), each document once; a pick is one bracketed number; scores are a JSON object with every number
  once as a key and values from 0 to 10. White space between is free, there is none inside the brackets; digits are ASCII, without
  leading zeros. ``[0]`` is an unknown document.
* *Leniently*, for inference only: never an id from the reasoning, unknown ids dropped, the first of repeated ones kept, missing
  ones appended in the order in which they were shown. Where nothing can be read, that is the order, and the reason is named.

Documents are numbered from 1 in texts and from 0 in code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby, islice
from typing import NamedTuple, NoReturn

from r0.ranking import Groups, groups_of, ideal_groups
from r0.records import Answer, Form, ListLabel, Violation

MAX_SCORE = 10.0
_CLOSED_SET = frozenset(answer.value for answer in Answer)
# Possessive repeats: nothing is looked at twice.
_ORDER = re.compile(r"\[[0-9]++\](?:\s*+[>=]\s*+\[[0-9]++\])*+")
_PICK = re.compile(r"\[([0-9]++)\]")
_BARE = re.compile(r"[0-9]++")
_NOTHING: frozenset[Violation] = frozenset()


class Reading(NamedTuple):
    """A strict reading. ``answer`` is the content where it is a whole answer of the form, else None, and then ``violations`` say
    why. ``ranking``: groups of tied documents, best first (a pick is one group of one); ``scores`` [N] of ``Form.SCORES``."""

    answer: str | None
    ranking: Groups | None = None
    scores: tuple[float, ...] | None = None
    violations: frozenset[Violation] = frozenset()


class Lenient(NamedTuple):
    """A lenient reading. ``groups``: all N documents, best first; those of a group are not told apart, because they are tied, or
    because the answer leaves them out (these are the last group). Where nothing could be read it is one group. ``scores`` [N] of
    ``Form.SCORES``, None where the answer has none for a document; ``failures``: what could not be read, by name (an answer of
    which all could be read has none)."""

    groups: Groups
    scores: tuple[float | None, ...] | None
    failures: frozenset[Violation]

    @property
    def order(self) -> tuple[int, ...]:
        """All N documents, best first; those that are not told apart as they were shown."""
        return tuple(place for group in self.groups for place in group)


def read_strict(content: str, form: Form, size: int) -> Reading:
    """Read the stripped inside of an answer pair.

    Args:
        content: what stands between the tags, stripped.
        form: the asked form.
        size: number of documents N.
    """
    if form is Form.PERMUTATION:
        return _strict_order(content, size)
    if form is Form.SCORES:
        return _strict_scores(content, size)
    if form is Form.PICK:
        match = _PICK.fullmatch(content)
        if match is None:
            return _refused(Violation.BAD_ANSWER)
        place = _places(size).get(match[1])
        return _refused(Violation.UNKNOWN_ID) if place is None else Reading(content, ((place,),))
    return Reading(content) if content in _CLOSED_SET else _refused(Violation.BAD_ANSWER)


def _refused(*violations: Violation) -> Reading:
    return Reading(None, violations=frozenset(violations))


@lru_cache(maxsize=256)
def _places(size: int) -> dict[str, int]:
    """The documents by the numbers that texts give them."""
    return {str(place + 1): place for place in range(size)}


def _id_violations(named: Sequence[int | None], size: int) -> frozenset[Violation]:
    """What is wrong with the documents that an answer names; None is an unknown one."""
    if len(named) == size and None not in named and len(set(named)) == size:
        return _NOTHING
    known = set(named) - {None}
    wrong = {
        Violation.UNKNOWN_ID: None in named,
        Violation.REPEATED_ID: len(known) < len(named) - named.count(None),
        Violation.MISSING_ID: len(known) < size,
    }
    return frozenset(name for name, holds in wrong.items() if holds)


def _strict_order(content: str, size: int) -> Reading:
    if _ORDER.fullmatch(content) is None:
        return _refused(Violation.NOT_A_PERMUTATION)
    places = _places(size)
    named = [places.get(number) for number in _BARE.findall(content)]
    violations = _id_violations(named, size)
    if violations:
        return Reading(None, violations=violations)
    left = (place for place in named if place is not None)  # all of them, as checked
    groups = [
        tuple(sorted(islice(left, group.count("=") + 1))) if "=" in group else (next(left),) for group in content.split(">")
    ]
    return Reading(content, tuple(groups))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no score")


# Whole numbers are read as floats, too: a float has a length limit on its work, an int of many digits has none.
_JSON = json.JSONDecoder(object_pairs_hook=list, parse_int=float, parse_float=float, parse_constant=_no_constant)


def _pairs(content: str) -> list[tuple[str, object]] | None:
    """The keys and values of a JSON object in their order, repeated keys included; None where it is none."""
    if not content.startswith("{"):
        return None
    try:
        return _JSON.decode(content)
    except (ValueError, RecursionError):  # not JSON, or nested beyond what is read
        return None


def _is_score(value: object) -> bool:
    return isinstance(value, float) and 0 <= value <= MAX_SCORE  # not NaN, nor a boolean


def _strict_scores(content: str, size: int) -> Reading:
    pairs = _pairs(content)
    if pairs is None:
        return _refused(Violation.BAD_ANSWER)
    places = _places(size)
    violations = _id_violations([places.get(key) for key, _ in pairs], size)
    if not all(_is_score(value) for _, value in pairs):
        violations |= {Violation.BAD_ANSWER}
    if violations:
        return Reading(None, violations=violations)
    by_place = {places[key]: value for key, value in pairs}
    scores = tuple(by_place[place] + 0.0 for place in range(size))  # type: ignore[operator]  # floats, as checked; -0.0 is 0.0
    return Reading(content, groups_of(scores), scores)


def best_answer(form: Form, label: ListLabel) -> str:
    """The best answer to ``label``: what a warm start imitates.

    Permutation: by grade, equal ones joined by ``=`` in shown order. Pick: a document of the highest grade, the first shown.
    Scores: grades scaled to 0–10 by the highest one, as whole numbers. Negative grades count 0.

    Raises:
        ValueError: ``form`` is not a list's.
    """
    if form is Form.YES_NO:
        raise ValueError("yes or no is no answer about a list")
    ideal = ideal_groups(label.grades)
    if form is Form.PICK:
        return f"[{ideal[0][0] + 1}]"
    if form is Form.PERMUTATION:
        return " > ".join(" = ".join(f"[{place + 1}]" for place in group) for group in ideal)
    return json.dumps({str(place + 1): score for place, score in enumerate(_scaled(label.grades))})


def _scaled(grades: Sequence[float]) -> list[int]:
    most = max(grades)
    return [int(MAX_SCORE * grade / most + 0.5) if grade > 0 else 0 for grade in grades]


_BRACKETED = re.compile(r"\[\s*+([0-9]{1,9})\s*+\]")
_ONLY_NUMBERS = re.compile(r"[\s0-9>=,;|→⇒≻-]*+")  # numbers and what may stand between them
_SCORE = re.compile(r"\[?([0-9]{1,9})\]?[\"']?\s*+[:=]\s*+[\"']?(-?[0-9]{1,9}(?:\.[0-9]{1,30})?)(?![0-9.])")


def read_lenient(text: str, form: Form, size: int, prefix: str = "") -> Lenient:
    """Read what can be read of a completion.

    Only the answer is looked at: behind the last ``</think>``, the last pair of answer tags, or from the last ``<answer>`` to the
    end where none is closed. Tied documents, and those that the answer leaves out, keep the order in which they were shown.

    Args:
        text: the completion.
        form: the asked form.
        size: number of documents N.
        prefix: a tag that the chat template opened already.
    """
    content, failures = _answer_content(prefix + text)
    shown = tuple(range(size))
    if content is None:
        return Lenient((shown,), (None,) * size if form is Form.SCORES else None, failures)
    strict = read_strict(content, form, size)
    if form is Form.SCORES:
        scores, more = (strict.scores, _NOTHING) if strict.scores else _lenient_scores(content, size)
        # Scored ones first, best first; sorting keeps the shown order of equal ones.
        order = sorted(shown, key=lambda place: _descending(scores[place]))
        levels = tuple(tuple(level) for _, level in groupby(order, key=lambda place: scores[place]))
        return Lenient(levels, scores, failures | more)
    if form is Form.YES_NO:
        return Lenient((shown,), None, failures | strict.violations)
    groups, more = (strict.ranking, _NOTHING) if strict.ranking else _lenient_order(content, form, size)
    left_out = set(shown).difference(place for group in groups for place in group)
    levels = (*map(tuple, groups), tuple(place for place in shown if place in left_out))
    return Lenient(tuple(level for level in levels if level), None, failures | more)


def _answer_content(text: str) -> tuple[str | None, frozenset[Violation]]:
    """The inside of the answer that counts, stripped, and what is wrong with where it stands."""
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
            return None, frozenset({Violation.NO_ANSWER})
        found.add(Violation.UNCLOSED_ANSWER)
    if text.count("<answer>") > 1:
        found.add(Violation.REPEATED_ANSWER)
    return text[opening + len("<answer>") : close].strip(), frozenset(found)


def _lenient_order(content: str, form: Form, size: int) -> tuple[list[list[int]], frozenset[Violation]]:
    """Groups of known documents, first mentions only: of bracketed numbers, or of bare ones where there are no words."""
    matches = list(_BRACKETED.finditer(content))
    if not matches and _ONLY_NUMBERS.fullmatch(content):
        matches = list(_BARE.finditer(content))
    if not matches:
        return [], frozenset({Violation.BAD_ANSWER if form is Form.PICK else Violation.NOT_A_PERMUTATION})
    places = [_places(size).get(match[match.lastindex or 0]) for match in matches]
    if form is Form.PICK:  # the first known one; that there are others is a failure of its own
        picked = next((place for place in places if place is not None), None)
        wrong = {Violation.UNKNOWN_ID: None in places, Violation.BAD_ANSWER: len(places) > 1}
        return [] if picked is None else [[picked]], frozenset(name for name, holds in wrong.items() if holds)
    groups: list[list[int]] = []
    seen: set[int] = set()
    end = 0
    for place, match in zip(places, matches, strict=True):
        if not groups or content[end : match.start()].strip() != "=":
            groups.append([])
        if place is not None and place not in seen:
            seen.add(place)
            groups[-1].append(place)
        end = match.end()
    return [sorted(group) for group in groups], _id_violations(places, size)


def _lenient_scores(content: str, size: int) -> tuple[tuple[float | None, ...], frozenset[Violation]]:
    """The first score of every known document; those out of range do not count."""
    scores: list[float | None] = [None] * size
    pairs = _pairs(content)
    if pairs is None or not any(key in _places(size) and _is_score(value) for key, value in pairs):
        pairs = [(match[1], float(match[2])) for match in _SCORE.finditer(content)] or pairs or []
    places = [_places(size).get(key) for key, _ in pairs]
    for place, (_, value) in zip(places, pairs, strict=True):
        if place is not None and scores[place] is None and _is_score(value):
            scores[place] = value + 0.0  # type: ignore[operator]  # a float, as checked; -0.0 is 0.0
    wrong = not pairs or not all(_is_score(value) for _, value in pairs)
    return tuple(scores), _id_violations(places, size) | ({Violation.BAD_ANSWER} if wrong else set())


def _descending(score: float | None) -> tuple[bool, float]:
    return (score is None, -(score or 0.0))
