"""The documents that an answer names, in the order in which it names them.

Tried in turn, until one is found: numbers in brackets (``[2] > [1]``, ``[2, 1, 3]``, ``[02]``, ``[Passage 2]``), numbers after a
word (``Passage 2 > Passage 1``), bare numbers (``2 > 1``); then letters in the same ways, ``A`` being document 1. Bare numbers
and letters count only if the text has nothing else, or if they name each document exactly once. If a part of the text whose
mentions follow each other directly names each document exactly once, the last such part is the answer.

Digits of any script are read, also circled and raised ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from r0.text.answers import places_of

_WORD = r"(?:passage|document|doc|text|candidate|item|option)"
_SEPARATORS = r"[\s>=,;|→⇒≻-]"
_SIGNS_TO_ASCII = str.maketrans("［］【】〔〕＞＝，、：；", "[][][]>=,,:;")
_RAISED = ("<super>", "<sub>")
_LINE_NUMBER = re.compile(r"^\s*+[0-9]++[.)]\s++(?=\S)")
_OTHER_DIGITS = re.compile(r"[^\W_a-zA-Z0-9]")
# Possessive quantifiers prevent backtracking, so matching is linear.
_BETWEEN = re.compile(
    r"[\s\]\"'*.]*+"  # the end of the one before
    r"(?:[>=,;|→⇒≻][\s\"'*>=|→⇒≻]*+(?:[^\W\d_]{2,12}+[\s#_:]*+)?+)?+"  # a sign, then perhaps a word
    r"[\[\"']*+"
)
_OTHER_THAN_SIGNS = re.compile(r"[^>=,;|→⇒≻]")


class Mention(NamedTuple):
    """One mention of a document: its place (None: there is no such document), and whether ``=`` ties it to the one before."""

    place: int | None
    tied: bool


class _Script(NamedTuple):
    """How documents are written: in digits or in letters."""

    bracketed: re.Pattern[str]  # one pair of brackets with nothing but mentions in it
    named: re.Pattern[str]
    bare: re.Pattern[str]
    only: re.Pattern[str]  # a text of mentions alone


def _script(one: str, digits: bool) -> _Script:
    word = r"(?:[^\W\d_]{1,12}+[\s#_:.]*+)?+" if digits else rf"(?i:{_WORD}[\s#_:.]*+)?+"
    listed = rf"{word}[#\"']?+{one}[\"']?+"
    return _Script(
        re.compile(rf"\[\s*+{listed}(?:[\s>=,;|→⇒≻]++{listed})*+\s*+\]"),
        re.compile(rf"\b(?i:{_WORD})[\s#_:.-]*+({one})\b"),
        re.compile(rf"({one})" if digits else rf"\b({one})\b"),
        re.compile(rf"(?:{one}|{_SEPARATORS}|\.(?![0-9]))*+"),
    )


_SCRIPTS = (_script(r"[0-9]++", digits=True), _script(r"[A-Za-z](?![^\W_])", digits=False))


def mentions(content: str, size: int) -> list[Mention]:
    """The mentions in the content of an answer about ``size`` documents; empty if nothing can be read. Linear time."""
    text = plain_digits(content)
    for script in _SCRIPTS:
        in_brackets = [
            match for pair in script.bracketed.finditer(text) for match in script.bare.finditer(text, pair.start(), pair.end())
        ]
        for matches in (in_brackets, list(script.named.finditer(text))):
            if matches:
                found = _mentions(text, matches, size)
                return _complete(found, size) or [mention for mention, _ in found]
        text = _without_line_numbers(text)
        found = _mentions(text, list(script.bare.finditer(text)), size)
        whole = [mention for mention, _ in found]
        if whole and (script.only.fullmatch(text) or _names_all(whole, size)):
            return whole
        if complete := _complete(found, size):
            return complete
    return []


def _without_line_numbers(text: str) -> str:
    """``text`` without the numbers of its lines, if each has one: ``1. 3`` becomes ``3``."""
    lines = [line for line in text.splitlines() if line.strip()]
    rests = [_LINE_NUMBER.sub("", line, count=1) for line in lines]
    return "\n".join(rests) if all(len(rest) < len(line) for rest, line in zip(rests, lines, strict=True)) else text


def plain_digits(text: str) -> str:
    """``text`` with ASCII digits and signs: ``［２］`` becomes ``[2]``; a circled number is put in brackets."""
    if text.isascii():
        return text
    return _OTHER_DIGITS.sub(lambda found: _ascii(found[0]), text.translate(_SIGNS_TO_ASCII))


def _ascii(letter: str) -> str:
    number = unicodedata.numeric(letter, None)
    if number is None or not float(number).is_integer() or unicodedata.category(letter) not in ("Nd", "No"):
        return letter
    raised = unicodedata.decomposition(letter).partition(" ")[0] in _RAISED
    return str(int(number)) if raised or unicodedata.category(letter) == "Nd" else f"[{int(number)}]"


def _mentions(text: str, matches: list[re.Match[str]], size: int) -> list[tuple[Mention, bool]]:
    """Each mention, and whether it follows the one before directly."""
    found, end = [], None
    for match in matches:
        between = "" if end is None else text[end : match.start(1) if match.lastindex else match.start()]
        follows = end is not None and _BETWEEN.fullmatch(between) is not None
        tied = follows and _OTHER_THAN_SIGNS.sub("", between) == "="
        found.append((Mention(_place(match[match.lastindex or 0], size), tied), follows))
        end = match.end()
    return found


def _place(written: str, size: int) -> int | None:
    if written.isalpha():
        place = ord(written.upper()) - ord("A")
        return place if place < size else None
    return places_of(size).get(written.lstrip("0"))


def _complete(found: list[tuple[Mention, bool]], size: int) -> list[Mention]:
    """The last part whose mentions follow each other and name each document exactly once; empty if there is none."""
    last: list[Mention] = []
    for part in _parts(found):
        if size > 1 and _names_all(part, size):
            last = part
    return last


def _parts(found: list[tuple[Mention, bool]]) -> Iterator[list[Mention]]:
    part: list[Mention] = []
    for mention, follows in found:
        if part and not follows:
            yield part
            part = []
        part.append(mention)
    if part:
        yield part


def _names_all(named: list[Mention], size: int) -> bool:
    return len(named) == size and {mention.place for mention in named} == set(range(size))
