"""The values of a row's keys: texts, ids, numbers, objects; what is wrong with one is a ``BadLine``."""

from __future__ import annotations

from r0.data.jsonl import BadLine, Row, shown, type_name


def value_of(row: Row, key: str, where: str = "") -> object:
    """The value at ``key``.

    Raises:
        BadLine: it is missing.
    """
    if key not in row:
        raise BadLine(f"{where}the field {shown(key)} is missing")
    return row[key]


def text_of(row: Row, key: str, where: str = "", blank: bool = False) -> str:
    """The string at ``key``. ``where`` names an inner object in messages; ``blank`` allows a string without visible characters.

    Raises:
        BadLine: the value is missing, not a string, or blank although that is not allowed.
    """
    value = value_of(row, key, where)
    if not isinstance(value, str):
        raise BadLine(f"{where}{shown(key)} must be a string, not {type_name(value)}")
    if not blank and not value.strip():
        raise BadLine(f"{where}{shown(key)} is empty")
    return value


def text_or_empty(row: Row, key: str, where: str = "") -> str:
    """The string at ``key``; empty if it is missing or null.

    Raises:
        BadLine: the value is no string.
    """
    return "" if row.get(key) is None else text_of(row, key, where, blank=True)


def id_of(row: Row, key: str, where: str = "") -> str:
    """The id at ``key``: a string, or a whole number.

    Raises:
        BadLine: it is missing or neither of them.
    """
    value = value_of(row, key, where)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text_of(row, key, where)


def number_of(row: Row, key: str, where: str = "") -> float:
    """The finite number at ``key``.

    Raises:
        BadLine: the value is missing or not a number (booleans are not numbers).
    """
    value = value_of(row, key, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadLine(f"{where}{shown(key)} must be a number, not {type_name(value)}")
    if isinstance(value, int) and abs(value) > 1 << 53:
        raise BadLine(f"{where}{shown(key)} is too large")
    return float(value)


def objects_of(row: Row, key: str) -> list[Row]:
    """The list of objects at ``key``.

    Raises:
        BadLine: the value is missing, not a list, or has an element that is not an object.
    """
    value = value_of(row, key, "")
    if not isinstance(value, list):
        raise BadLine(f"{shown(key)} must be a list, not {type_name(value)}")
    for index, inner in enumerate(value):
        if not isinstance(inner, dict):
            raise BadLine(f"{key}[{index}] must be an object, not {type_name(inner)}")
    return value


def with_title(title: str, text: str) -> str:
    """``title. text``; only the text if the title is blank."""
    return f"{title.strip()}. {text}" if title.strip() else text
