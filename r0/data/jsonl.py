"""Strict rows: one JSON object each, UTF-8, without the leniency of ``json.loads``.

Refused, each as ``file:line: reason``: bytes that are not UTF-8, text that is not JSON, NaN, Infinity, numbers too large for
a float, lone surrogates, duplicate keys, lines that are not objects, lines that are too long. Blank lines are skipped, and a
byte-order mark at the start of the file is ignored. Lines are numbered from 1. What a file of rows may be: ``row_files``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from r0.data.progress import progress
from r0.data.row_files import BrokenRows, is_plain, raw_rows
from r0.errors import UserError

_LISTED = 10
_SHOWN = 60
_BOM = b"\xef\xbb\xbf"

Row = dict[str, object]


class BadLine(ValueError):
    """What is wrong with a line, without its location."""


@dataclass(slots=True)
class BadLines:
    """Bad lines, and what else a person should know of the rows of a file.

    With ``skip=False`` the first bad line raises; with ``skip=True`` they are counted and the first few are listed.
    """

    skip: bool = False
    count: int = 0
    first: list[str] = field(default_factory=list)
    notes: Counter[tuple[Path, str]] = field(default_factory=Counter)  # by file and sentence

    def refuse(self, path: Path, number: int, reason: str) -> None:
        """Record a bad line.

        Raises:
            UserError: bad lines are not skipped.
        """
        message = f"{path}:{number}: {reason}"
        if not self.skip:
            raise UserError(f"{message}; correct the line, or skip bad lines with skip_bad=true")
        self.count += 1
        if len(self.first) < _LISTED:
            self.first.append(message)

    def note(self, path: Path, what: str, count: int = 1) -> None:
        """Note something about ``count`` rows of a file."""
        if count:
            self.notes[path, what] += count

    def noted(self, what: str) -> bool:
        """Whether ``what`` was noted of any file."""
        return any(said == what for _, said in self.notes)

    def unread(self, path: Path, keys: Iterable[str]) -> None:
        """Note keys of a row that nothing reads."""
        for name in sorted(keys):
            self.notes[path, f"the key {shown(name)} is not read"] += 1

    def summary(self) -> str:
        """The count and the first bad lines, then the notes, one per line; empty if there are none."""
        lines = [f"{self.count} bad lines skipped:", *(f"  {message}" for message in self.first)] if self.count else []
        lines += [f"  … and {self.count - len(self.first)} more"] if self.count > len(self.first) else []
        lines += [f"{path}: {what} (rows: {count})" for (path, what), count in self.notes.most_common(_LISTED)]
        lines += [f"… and {len(self.notes) - _LISTED} more such notes"] if len(self.notes) > _LISTED else []
        return "\n".join(lines)


class Line(NamedTuple):
    """A row that is not blank: its number (from 1), its offset and length in the stream of rows (``row_files``), its object."""

    number: int
    offset: int
    length: int
    row: Row


def readable_file(path: Path, what: str) -> Path:
    """Return ``path`` if it is a readable file that is not empty.

    Raises:
        UserError: it is not; ``what`` says in the message what is expected.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give {what}")
    if not path.exists():
        raise UserError(f"{path}: no such file; give {what}")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise UserError(f"{path}: the file is empty; give {what}")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give {what}") from None
    return path


def read_lines(path: Path, bad: BadLines, title: str = "", list_keys: Sequence[str] = ()) -> Iterator[Line]:
    """The rows of a file as objects, in order; bad lines go to ``bad``. ``title``: shown with the progress of a long pass.

    With ``list_keys`` a line may also be a list; ``list_keys`` names its elements in order.

    Raises:
        UserError: a bad line that ``bad`` does not skip; or the file cannot be read, decompressed or split into rows.
    """
    total = path.stat().st_size if title and is_plain(path) else 0
    with progress(title, total) as advance:
        try:
            for number, raw, offset, length, wrong in raw_rows(path):
                advance(length)
                if raw.isspace():
                    continue
                try:
                    if wrong:
                        raise BadLine(wrong)
                    yield Line(number, offset, length, parse(raw.removeprefix(_BOM) if offset == 0 else raw, list_keys))
                except BadLine as error:
                    bad.refuse(path, number, str(error))
        except BrokenRows as error:
            raise UserError(f"{path}:{error.number}: {error}; correct the file") from None


def parse(raw: bytes, list_keys: Sequence[str] = ()) -> Row:
    """Parse one line into an object; a list is converted with ``list_keys``.

    Raises:
        BadLine: the line is refused (see the module).
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8 at byte {error.start + 1}") from None
    try:
        row = _DECODER.decode(text)
        if "\\u" in text:  # only an escape sequence can produce a surrogate
            _refuse_surrogates(row)
    except BadLine:
        raise
    except json.JSONDecodeError as error:
        several = "; an object must be on one line, as `jq -c .` writes it" if text.strip() == "{" else ""
        raise BadLine(f"not JSON: {error.msg} at column {error.colno}{several}") from None
    except RecursionError:
        raise BadLine("nested too deeply") from None
    except ValueError:  # an integer with thousands of digits
        raise BadLine("a number has too many digits") from None
    if list_keys and isinstance(row, list) and len(row) == len(list_keys):
        row = dict(zip(list_keys, row, strict=True))
    if not isinstance(row, dict):
        wanted = f"an object, nor a list of {', '.join(list_keys)}" if list_keys else "an object"
        raise BadLine(f"not {wanted} but {type_name(row)}")
    return row


def _refuse_constant(name: str) -> float:
    raise BadLine(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadLine(f"the number {shown(text)} is too large")
    return value


def _unique(pairs: list[tuple[str, object]]) -> Row:
    row = dict(pairs)
    if len(row) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadLine(f"the key {shown(key)} occurs twice")
            seen.add(key)
    return row


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)


def _refuse_surrogates(value: object) -> None:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadLine(f"the lone surrogate \\u{ord(value[error.start]):04x} is not a character") from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            _refuse_surrogates(key)
            _refuse_surrogates(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_surrogates(inner)


def shown(value: object) -> str:
    """A value quoted for a message, without control characters, and shortened."""
    text = json.dumps(value, ensure_ascii=False)
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def type_name(value: object) -> str:
    """What kind of JSON value it is, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names[type(value)]
