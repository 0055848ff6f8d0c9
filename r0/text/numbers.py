"""The rule for numbers in brackets in text that is data.

The documents of a list are shown one a line behind their labels: ``[1] …``, ``[2] …``. So a query or a document is put on one
line (white space with a line break in it becomes a space), and a number in brackets within it is written in parentheses: ``[12]``
becomes ``(12)``, whatever white space stands inside. Nothing else changes: ``[a]``, ``[1, 2]`` and ``x[i]`` stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LABEL = re.compile(r"[\[［]\s*+\d++\s*+[\]］]")  # the wide brackets are typed for the same, and read as the same
_OPENING, _CLOSING = frozenset("[［"), frozenset("]］")
_SPACE = re.compile(r"\s+")
_BREAK = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # where ``str.splitlines`` breaks


def one_line(text: str) -> str:
    """``text`` without line breaks and without the white space around it."""
    if _BREAK.search(text):
        text = _SPACE.sub(lambda found: " " if _BREAK.search(found[0]) else found[0], text)
    return text.strip()


def without_labels(text: str, normalize: Callable[[str], str] | None = None) -> str:
    """``text`` in which no number stands in brackets, before and after the tokenizer's own normalisation."""
    safe = LABEL.sub(lambda found: f"({found[0][1:-1]})", text)
    if normalize is None or not LABEL.search(normalize(safe)):
        return safe
    # Normalisation made a label (another bracket, a circled digit, an invisible letter): all that becomes a bracket goes.
    letters = {letter: frozenset(normalize(letter)) for letter in set(safe)}
    return "".join("(" if letters[one] & _OPENING else ")" if letters[one] & _CLOSING else one for one in safe)
