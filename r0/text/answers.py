"""Parses the content of ``<answer>…</answer>`` strictly, for rewards, and builds the best answer to a label.

The result is either a complete answer of the requested form, or the violations. A permutation is bracketed numbers joined by
``>`` and ``=`` (tied), with each document exactly once. A pick is one bracketed number. Scores are a JSON object with each
number exactly once as a key and values from 0 to 10. White space is allowed between these parts but not inside brackets.
Digits are ASCII without leading zeros. ``[0]`` is an unknown document. Any text is accepted and parsed in linear time.

Documents are numbered from 1 in texts and from 0 in code. Inference reads more: ``r0.text.lenient_answers``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, NoReturn

from r0.ranking import Groups, groups_of, ideal_groups
from r0.records import Answer, Form, ListLabel, Violation

MAX_SCORE = 10.0
_CLOSED_SET = frozenset(answer.value for answer in Answer)
# Possessive quantifiers prevent backtracking, so matching is linear.
_ORDER = re.compile(r"\[[0-9]++\](?:\s*+[>=]\s*+\[[0-9]++\])*+")
_PICK = re.compile(r"\[([0-9]++)\]")
_BARE = re.compile(r"[0-9]++")
_NOTHING: frozenset[Violation] = frozenset()


class StrictReading(NamedTuple):
    """The result of strict parsing. ``answer``: the content if it is a complete answer of the form, else None, and
    ``violations`` says why. ``ranking``: groups of tied documents, best first (a pick is one group of one). ``scores`` [N]: for
    ``Form.SCORES``.
    """

    answer: str | None
    ranking: Groups | None = None
    scores: tuple[float, ...] | None = None
    violations: frozenset[Violation] = frozenset()


def read_strict(content: str, form: Form, size: int) -> StrictReading:
    """Parse the content of an answer pair strictly.

    Args:
        content: the text between the tags, stripped.
        form: the requested form.
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
        place = places_of(size).get(match[1])
        return _refused(Violation.UNKNOWN_ID) if place is None else StrictReading(content, ((place,),))
    return StrictReading(content) if content in _CLOSED_SET else _refused(Violation.BAD_ANSWER)


def _refused(*violations: Violation) -> StrictReading:
    return StrictReading(None, violations=frozenset(violations))


@lru_cache(maxsize=256)
def places_of(size: int) -> dict[str, int]:
    """Maps the numbers used in texts to document indices."""
    return {str(place + 1): place for place in range(size)}


def id_violations(named: Sequence[int | None], size: int) -> frozenset[Violation]:
    """The violations in the documents that an answer names; None stands for an unknown document."""
    if len(named) == size and None not in named and len(set(named)) == size:
        return _NOTHING
    known = set(named) - {None}
    wrong = {
        Violation.UNKNOWN_ID: None in named,
        Violation.REPEATED_ID: len(known) < len(named) - named.count(None),
        Violation.MISSING_ID: len(known) < size,
    }
    return frozenset(name for name, holds in wrong.items() if holds)


def _strict_order(content: str, size: int) -> StrictReading:
    if _ORDER.fullmatch(content) is None:
        return _refused(Violation.NOT_A_PERMUTATION)
    places = places_of(size)
    named = [places.get(number) for number in _BARE.findall(content)]
    violations = id_violations(named, size)
    if violations:
        return StrictReading(None, violations=violations)
    left = (place for place in named if place is not None)  # never None here; for the type checker
    groups = [
        tuple(sorted(islice(left, group.count("=") + 1))) if "=" in group else (next(left),) for group in content.split(">")
    ]
    return StrictReading(content, tuple(groups))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a score")


# Integers are parsed as floats too: parsing an int with very many digits takes quadratic time.
_JSON = json.JSONDecoder(object_pairs_hook=list, parse_int=float, parse_float=float, parse_constant=_no_constant)


def json_pairs(content: str) -> list[tuple[str, object]] | None:
    """The (key, value) pairs of a JSON object in order, repeated keys included; None if ``content`` is not an object."""
    if not content.startswith("{"):
        return None
    try:
        return _JSON.decode(content)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        return None


def _is_score(value: object) -> bool:
    return isinstance(value, float) and 0 <= value <= MAX_SCORE  # excludes NaN and booleans


def _strict_scores(content: str, size: int) -> StrictReading:
    pairs = json_pairs(content)
    if pairs is None:
        return _refused(Violation.BAD_ANSWER)
    places = places_of(size)
    violations = id_violations([places.get(key) for key, _ in pairs], size)
    if not all(_is_score(value) for _, value in pairs):
        violations |= {Violation.BAD_ANSWER}
    if violations:
        return StrictReading(None, violations=violations)
    by_place = {places[key]: value for key, value in pairs}
    scores = tuple(by_place[place] + 0.0 for place in range(size))  # type: ignore[operator]  # known floats; -0.0 becomes 0.0
    return StrictReading(content, groups_of(scores), scores)


def best_answer(form: Form, label: ListLabel) -> str:
    """The best answer to ``label``: the target of a warm start.

    Permutation: by grade, equal grades joined by ``=`` in the order shown. Pick: the first document shown among those of the
    highest grade. Scores: grades scaled so that the highest is 10, rounded to integers. Negative grades count as 0.

    Raises:
        ValueError: ``form`` is not a list form.
    """
    if form is Form.YES_NO:
        raise ValueError("form yes_no does not answer a list")
    ideal = ideal_groups(label.grades)
    if form is Form.PICK:
        return f"[{ideal[0][0] + 1}]"
    if form is Form.PERMUTATION:
        return " > ".join(" = ".join(f"[{place + 1}]" for place in group) for group in ideal)
    return json.dumps({str(place + 1): score for place, score in enumerate(_scaled(label.grades))})


def _scaled(grades: Sequence[float]) -> list[int]:
    most = max(grades)
    return [int(MAX_SCORE * grade / most + 0.5) if grade > 0 else 0 for grade in grades]
