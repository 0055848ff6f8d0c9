"""One rule for grades, wherever they stand: in rows, in tables, in judgements.

A grade is a finite number, also as text ("0.5", "1e-1"), or true (1) or false (0). A negative grade is that of a document that
was judged and is not relevant.
"""

from __future__ import annotations

import math
import re

from r0.data.fields import value_of
from r0.data.jsonl import BadLine, Row, shown, type_name

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LARGEST = 1 << 53  # of whole numbers: larger ones are not exact as floats
_WORDS = {"true": 1.0, "false": 0.0}


def grade_of(row: Row, key: str, where: str = "") -> float:
    """The grade at ``key`` of a row; ``where`` names an inner object in messages.

    Raises:
        BadLine: it is missing or not a grade.
    """
    value = value_of(row, key, where)
    if not isinstance(value, bool | int | float | str):
        raise BadLine(f"{where}{shown(key)} must be a number, not {type_name(value)}")
    if isinstance(value, float):
        return value
    return float(value) if isinstance(value, int) and abs(value) <= _LARGEST else as_number(value, f"{where}{shown(key)}")


def as_number(value: float | str, what: str = "the grade") -> float:
    """A grade or a score as a number; ``what`` names it in messages.

    Raises:
        BadLine: it is text that is no number, or too large, or not finite.
    """
    if isinstance(value, str):
        text = value.strip(" \t")
        if not _NUMBER.fullmatch(text):
            if text.lower() in _WORDS:
                return _WORDS[text.lower()]
            infinite = text.lower().lstrip("+-") in ("nan", "inf", "infinity")
            raise BadLine(f"{what} {shown(text)} is not {'finite' if infinite else 'a number'}")
        value = float(text)
        if not math.isfinite(value):
            raise BadLine(f"{what} {shown(text)} is not finite")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise BadLine(f"{what} is too large")
    return float(value)
