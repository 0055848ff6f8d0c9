"""Escapes bracketed numbers in data, so that they cannot be mistaken for the labels of a list.

The documents of a list are shown one per line, after their labels ``[1] …``, ``[2] …``. Therefore a query or a document is put
on one line (white space that contains a line break becomes one space), and a bracketed number in it is written in parentheses:
``[12]`` becomes ``(12)``, with or without white space inside. Everything else stays: ``[a]``, ``[1, 2]``, ``x[i]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LABEL = re.compile(r"[\[［]\s*+\d++\s*+[\]］]")  # full-width brackets count too
_OPENING, _CLOSING = frozenset("[［"), frozenset("]］")
_SPACE = re.compile(r"\s+")
_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # the line breaks of ``str.splitlines``


def one_line(text: str) -> str:
    """``text`` on one line: line breaks become spaces, surrounding white space is removed."""
    if _BREAK.search(text):
        text = _SPACE.sub(lambda found: " " if _BREAK.search(found[0]) else found[0], text)
    return text.strip()


def without_labels(text: str, normalize: Callable[[str], str] | None = None) -> str:
    """``text`` without bracketed numbers, both before and after the tokenizer's normalization."""
    safe = LABEL.sub(lambda found: f"({found[0][1:-1]})", text)
    if normalize is None or not LABEL.search(normalize(safe)):
        return safe
    # Normalization creates a label (from another bracket, a circled digit, an invisible character): replace every character that
    # becomes a bracket.
    letters = {letter: frozenset(normalize(letter)) for letter in set(safe)}
    return "".join("(" if letters[one] & _OPENING else ")" if letters[one] & _CLOSING else one for one in safe)
