"""The rows of a file as JSON texts: JSON lines, a JSON array, a table of comma- or tab-separated values, or parquet.

A row has a number (its line, from 1; in parquet the row) and an offset in the *stream*, which is the rows one behind the other.
Where the file is plain JSON lines, the stream is the file itself; ``spooled`` writes any other stream to a temporary file, so
that its rows can be read at random.

A table has a line with the names of its columns. A tab-separated file without one is MS MARCO's triples: query, positive,
negative. A missing value in parquet is null.
"""

from __future__ import annotations

import csv
import json
import mmap
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from r0.data.compressed import PARQUET, SUFFIXES, binary_format, compression_of, head_of, opened
from r0.errors import UserError, reason

MAX_LINE_BYTES = 64 << 20
TRIPLE = ("query", "positive", "negative")  # the columns of MS MARCO's triples
_BOM = b"\xef\xbb\xbf"
_ROWS_A_BATCH = 1024
_TOO_LONG = f"the line is longer than {MAX_LINE_BYTES >> 20} MiB"
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{},]|"', re.DOTALL)
_COLUMN = re.compile(r"[A-Za-z][A-Za-z0-9_ -]*")


class RawRow(NamedTuple):
    """A row's number, its JSON text, its offset and length in the stream; or, instead of the text, what is ``wrong`` with it."""

    number: int
    raw: bytes
    offset: int
    length: int
    wrong: str = ""


class BrokenRows(ValueError):
    """What makes the rest of a file unreadable, with the number of the line."""

    def __init__(self, number: int, what: str):
        super().__init__(what)
        self.number = number


def raw_rows(path: Path) -> Iterator[RawRow]:
    """The rows of a file in order.

    Raises:
        UserError: the file cannot be read or decompressed, or is of an unknown binary format.
        BrokenRows: the rest of the file cannot be split into rows.
    """
    form = _form(path)
    if form == "lines":
        yield from _lines(path)
        return
    offset = 0
    for number, raw in _CONVERTED[form](path):
        if isinstance(raw, str):
            yield RawRow(number, b"", offset, 0, raw)
            continue
        yield RawRow(number, raw, offset, len(raw))
        offset += len(raw)


def is_plain(path: Path) -> bool:
    """Whether the stream of rows is the file itself."""
    return not compression_of(path) and _form(path) == "lines"


def spooled(path: Path) -> BinaryIO:
    """The stream of rows as an anonymous temporary file, which disappears when it is closed.

    Raises:
        UserError: as ``raw_rows``; or the temporary file cannot be written.
    """
    file = tempfile.TemporaryFile(prefix="r0-rows-")  # noqa: SIM115 the caller closes it
    try:
        for row in raw_rows(path):
            file.write(row.raw if row.length == len(row.raw) else bytes(row.length))
        file.flush()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be unpacked to {tempfile.gettempdir()} ({error.strerror}); make room there, or set TMPDIR "
            "to another folder"
        ) from None
    return file


def _form(path: Path) -> str:
    """``lines``, ``array``, ``csv``, ``tsv`` or ``parquet``."""
    head = head_of(path)
    if head.startswith(PARQUET) and binary_format(head):
        return "parquet"
    names = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in SUFFIXES]
    if names and names[-1] in (".csv", ".tsv"):
        return names[-1][1:]
    start = head.removeprefix(_BOM).lstrip()
    is_array = start[:1] == b"[" and start[1:].lstrip()[:1] in (b"{", b"[", b"]", b"")
    return "array" if is_array else "lines"


def _lines(path: Path) -> Iterator[RawRow]:
    with opened(path) as file:
        number = offset = 0
        while raw := file.readline(MAX_LINE_BYTES):
            number += 1
            length = len(raw)
            whole = raw.endswith(b"\n") or length < MAX_LINE_BYTES
            if not whole:
                while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                    length += len(rest)
                length += len(rest)
            yield RawRow(number, raw, offset, length) if whole else RawRow(number, b"", offset, length, _TOO_LONG)
            offset += length


def _array(path: Path) -> Iterator[tuple[int, bytes | str]]:
    """The elements of a JSON array, by line; by place where they are all on one line."""
    with _mapped(path) as data:
        depth, start, line, counted, place, first_line = 0, 0, 1, 0, 0, 0
        for found in _TOKEN.finditer(data):
            token, at = found[0], found.start()
            if token == b'"':
                raise BrokenRows(line + data[counted:at].count(b"\n"), "a string is not closed")
            if depth == 1 and token in (b",", b"]"):
                element = data[start:at]
                begin, start = at - len(element.lstrip()), found.end()
                line, counted = line + data[counted:begin].count(b"\n"), begin
                if element.strip() or token == b",":
                    place, first_line = place + 1, first_line or line
                    number = place if place > 1 and line == first_line else line
                    yield number, element.strip() if at - begin <= MAX_LINE_BYTES else _TOO_LONG
            depth += (token in (b"[", b"{")) - (token in (b"]", b"}"))
            if depth == 1 and token == b"[" and not start:
                start = found.end()
            if depth == 0:
                rest = data[found.end() :].lstrip()
                if rest:
                    number = line + data[counted : len(data) - len(rest)].count(b"\n")
                    raise BrokenRows(number, "there is text behind the JSON array; give one array, or JSON lines")
                return
        raise BrokenRows(line + data[counted:].count(b"\n"), "the JSON array is not closed; the file seems to be cut off")


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """The content of a file, mapped into memory; a compressed file is first decompressed to a temporary one."""
    with opened(path) as file:
        if not compression_of(path):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
            return
        with tempfile.TemporaryFile(prefix="r0-array-") as unpacked:
            shutil.copyfileobj(file, unpacked, 1 << 20)
            unpacked.flush()
            with mmap.mmap(unpacked.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data


def _separated(path: Path, delimiter: str) -> Iterator[tuple[int, bytes | str]]:
    """The rows of a table of separated values, as objects."""
    csv.field_size_limit(MAX_LINE_BYTES)
    with opened(path) as file:
        first = next((line for line in _texts(file) if line.strip()), "")
    try:
        names = next(csv.reader([first], delimiter=delimiter), [])
    except csv.Error:  # of triples, which have no quotation marks
        names = first.rstrip("\r\n").split(delimiter)
    headed = all(_COLUMN.fullmatch(name.strip()) for name in names) and {name.strip().lower() for name in names} & _KNOWN_COLUMNS
    if not headed and (delimiter == "," or len(names) != len(TRIPLE)):
        raise BrokenRows(1, "the first line must name the columns, such as query, document and label")
    if not headed and all(name.strip().isdigit() for name in names):
        raise BrokenRows(1, "the three columns are ids, and triples of texts are read here; put the texts in their place")
    columns = [name.strip() for name in names] if headed else list(TRIPLE)
    if len(set(columns)) != len(columns):
        raise BrokenRows(1, "two columns have the same name")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if headed else csv.QUOTE_NONE
    with opened(path) as file:
        reader = csv.reader(_texts(file), delimiter=delimiter, quoting=quoting, strict=True)
        number = 1
        try:
            for place, cells in enumerate(reader):
                here, number = number, reader.line_num + 1
                if not cells or (headed and place == 0):
                    continue
                if delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in cells):
                    raise BrokenRows(here, _JOINED)
                if len(cells) != len(columns):
                    yield here, f"{len(cells)} cells where the table has {len(columns)} columns"
                    continue
                yield here, json.dumps(dict(zip(columns, cells, strict=True)), ensure_ascii=False).encode("utf-8")
        except csv.Error as error:
            why = "the quotation marks of a cell do not match" if headed else "a cell cannot be read"
            raise BrokenRows(number, f"{why} ({error})") from None


_JOINED = (
    "a quotation mark at the start of a cell joins it with the rows below; double each quotation mark of the cell and put the "
    "cell in quotation marks, or take this one away"
)


def _texts(file: BinaryIO) -> Iterator[str]:
    for number, raw in enumerate(file, 1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BrokenRows(number, f"not UTF-8 at byte {error.start + 1}") from None


def _parquet(path: Path) -> Iterator[tuple[int, bytes]]:
    """The rows of a parquet file, as objects."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if compression_of(path):
        raise UserError(f"{path}: is a compressed parquet file; decompress it first")
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_A_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, json.dumps(row, ensure_ascii=False, default=plain).encode("utf-8")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a readable parquet file ({reason(error).rstrip('.')}); write it again") from None


def plain(value: object) -> str:
    """A value of a table that JSON does not have. Texts without their type, as some writers leave them, are bytes.

    Raises:
        UnicodeDecodeError: bytes are no text.
    """
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


_KNOWN_COLUMNS = {
    "query", "anchor", "question", "sentence1", "sentence_1", "text1", "_id", "id", "query-id", "query_id", "qid", "product_id"
}  # fmt: skip
_CONVERTED = {
    "array": _array,
    "csv": lambda path: _separated(path, ","),
    "tsv": lambda path: _separated(path, "\t"),
    "parquet": _parquet,
}
