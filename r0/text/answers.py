"""Parses the content of ``<answer>…</answer>``, strictly or leniently, and builds the best answer to a label.

Both parsers accept any text and run in linear time.

* *Strict*, for rewards: either a complete answer of the requested form, or the violations. A permutation is bracketed numbers
  joined by ``>`` and ``=`` (tied), with each document exactly once. A pick is one bracketed number. Scores are a JSON object
  with each number exactly once as a key and values from 0 to 10. White space is allowed between these parts but not inside
  brackets. Digits are ASCII without leading zeros. ``[0]`` is an unknown document.
* *Lenient*, for inference only: ids in the reasoning are ignored, unknown ids are dropped, the first of repeated ids is kept,
  and missing ids are appended in the order shown. If nothing can be read, the result is the order shown, with the failures
  named.

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


class LenientReading(NamedTuple):
    """The result of lenient parsing. ``groups``: all N documents, best first. Documents in one group are tied, or all missing
    from the answer (the last group); if nothing could be read there is a single group. ``scores`` [N]: for ``Form.SCORES``,
    None for documents without a score. ``failures``: what could not be read; empty if everything could.
    """

    groups: Groups
    scores: tuple[float | None, ...] | None
    failures: frozenset[Violation]

    @property
    def order(self) -> tuple[int, ...]:
        """All N documents, best first; the documents of a group in the order shown."""
        return tuple(place for group in self.groups for place in group)


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
        place = _places(size).get(match[1])
        return _refused(Violation.UNKNOWN_ID) if place is None else StrictReading(content, ((place,),))
    return StrictReading(content) if content in _CLOSED_SET else _refused(Violation.BAD_ANSWER)


def _refused(*violations: Violation) -> StrictReading:
    return StrictReading(None, violations=frozenset(violations))


@lru_cache(maxsize=256)
def _places(size: int) -> dict[str, int]:
    """Maps the numbers used in texts to document indices."""
    return {str(place + 1): place for place in range(size)}


def _id_violations(named: Sequence[int | None], size: int) -> frozenset[Violation]:
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
    places = _places(size)
    named = [places.get(number) for number in _BARE.findall(content)]
    violations = _id_violations(named, size)
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


def _pairs(content: str) -> list[tuple[str, object]] | None:
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
    pairs = _pairs(content)
    if pairs is None:
        return _refused(Violation.BAD_ANSWER)
    places = _places(size)
    violations = _id_violations([places.get(key) for key, _ in pairs], size)
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


_BRACKETED = re.compile(r"\[\s*+([0-9]{1,9})\s*+\]")
_ONLY_NUMBERS = re.compile(r"[\s0-9>=,;|→⇒≻-]*+")  # numbers and separators
_SCORE = re.compile(r"\[?([0-9]{1,9})\]?[\"']?\s*+[:=]\s*+[\"']?(-?[0-9]{1,9}(?:\.[0-9]{1,30})?)(?![0-9.])")


def read_lenient(text: str, form: Form, size: int, prefix: str = "") -> LenientReading:
    """Parse as much of a completion as possible.

    Only the answer is considered: after the last ``</think>``, the last pair of answer tags, or, if no pair is closed,
    everything from the last ``<answer>`` to the end. Tied and missing documents keep the order shown.

    Args:
        text: the completion.
        form: the requested form.
        size: number of documents N.
        prefix: a tag that the chat template already opened.
    """
    content, failures = _answer_content(prefix + text)
    shown = tuple(range(size))
    if content is None:
        return LenientReading((shown,), (None,) * size if form is Form.SCORES else None, failures)
    strict = read_strict(content, form, size)
    if form is Form.SCORES:
        scores, more = (strict.scores, _NOTHING) if strict.scores else _lenient_scores(content, size)
        # Documents with a score come first, best first. The sort is stable, so equal scores keep the order shown.
        order = sorted(shown, key=lambda place: _descending(scores[place]))
        levels = tuple(tuple(level) for _, level in groupby(order, key=lambda place: scores[place]))
        return LenientReading(levels, scores, failures | more)
    if form is Form.YES_NO:
        return LenientReading((shown,), None, failures | strict.violations)
    groups, more = (strict.ranking, _NOTHING) if strict.ranking else _lenient_order(content, form, size)
    left_out = set(shown).difference(place for group in groups for place in group)
    levels = (*map(tuple, groups), tuple(place for place in shown if place in left_out))
    return LenientReading(tuple(level for level in levels if level), None, failures | more)


def _answer_content(text: str) -> tuple[str | None, frozenset[Violation]]:
    """The stripped content of the answer to be read (None if there is none), and the violations in its tags."""
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
    """Groups of known documents, first mentions only, from bracketed numbers, or from bare numbers if there are no words."""
    matches = list(_BRACKETED.finditer(content))
    if not matches and _ONLY_NUMBERS.fullmatch(content):
        matches = list(_BARE.finditer(content))
    if not matches:
        return [], frozenset({Violation.BAD_ANSWER if form is Form.PICK else Violation.NOT_A_PERMUTATION})
    places = [_places(size).get(match[match.lastindex or 0]) for match in matches]
    if form is Form.PICK:  # take the first known one; naming more than one is a failure
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
    """The first valid score of each known document; scores out of range are ignored."""
    scores: list[float | None] = [None] * size
    pairs = _pairs(content)
    if pairs is None or not any(key in _places(size) and _is_score(value) for key, value in pairs):
        pairs = [(match[1], float(match[2])) for match in _SCORE.finditer(content)] or pairs or []
    places = [_places(size).get(key) for key, _ in pairs]
    for place, (_, value) in zip(places, pairs, strict=True):
        if place is not None and scores[place] is None and _is_score(value):
            scores[place] = value + 0.0  # type: ignore[operator]  # a known float; -0.0 becomes 0.0
    wrong = not pairs or not all(_is_score(value) for _, value in pairs)
    return tuple(scores), _id_violations(places, size) | ({Violation.BAD_ANSWER} if wrong else set())


def _descending(score: float | None) -> tuple[bool, float]:
    return (score is None, -(score or 0.0))
