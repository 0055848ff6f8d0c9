"""Reads queries with items in four classes from parquet: ``query``, ``item_text``, ``esci_label`` (Amazon ESCI; Reddy et al.,
2022).

Labels are E, S, C, I or the words exact, substitute, complement, irrelevant, in any case. Other columns are ignored. Rows are
numbered from 1 and read in batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from r0.data.jsonl import BadLine, BadLines, readable_file, shown
from r0.data.progress import progress
from r0.errors import UserError, reason

CLASSES = ("E", "S", "C", "I")
WORDS = ("exact", "substitute", "complement", "irrelevant")
GAINS = (3, 2, 1, 0)  # the gain of each class, in nDCG and in the score
COLUMNS = ("query", "item_text", "esci_label")
WHAT = "a parquet file with the columns query, item_text and esci_label"
ROWS_A_BATCH = 4096
_LABELS = {name: place for names in (CLASSES, WORDS) for place, name in enumerate(name.lower() for name in names)}


class EsciRow(NamedTuple):
    """A row: its number in the file (from 1), query, item text, and the index of its class in ``CLASSES``."""

    number: int
    query: str
    item: str
    label: int


def read_esci(path: Path, bad: BadLines, title: str = "") -> Iterator[EsciRow]:
    """The rows of a file in order; bad rows go to ``bad``. ``title``: shown with the progress of a long pass.

    Raises:
        UserError: the file is not a readable parquet file, a column is missing or is not text, or no row is left; or a row is
            bad and ``bad`` does not skip.
    """
    readable_file(path, WHAT)
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            yield from _rows(path, file, bad, title)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: is not a readable parquet file ({reason(error).rstrip('.')}); give {WHAT}") from None


def _rows(path: Path, file: pq.ParquetFile, bad: BadLines, title: str) -> Iterator[EsciRow]:
    total, number, good = file.metadata.num_rows, 0, 0
    bytes_a_row = path.stat().st_size / max(1, total)
    with progress(title, path.stat().st_size) as advance:
        for batch in file.iter_batches(ROWS_A_BATCH, columns=list(COLUMNS)):
            columns = [_texts(batch.column(name)) for name in COLUMNS]
            for query, item, label in zip(*columns, strict=True):
                number += 1
                try:
                    yield EsciRow(number, _text(query, "query"), _text(item, "item_text"), _class(label))
                    good += 1
                except BadLine as error:
                    bad.refuse(path, number, str(error))
            advance(round(len(batch) * bytes_a_row))
    if not good:
        raise UserError(f"{path}: contains no rows; give {WHAT}")


def _check_columns(path: Path, schema: pa.Schema) -> None:
    missing = [name for name in COLUMNS if name not in schema.names]
    if missing:
        raise UserError(
            f"{path}: the column {missing[0]} is missing (it has {', '.join(schema.names) or 'none'}); rename its columns to "
            f"{', '.join(COLUMNS)}"
        )
    for name in COLUMNS:
        kind = schema.field(name).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)):
            raise UserError(f"{path}: the column {name} has type {kind} and must hold text; convert it to strings")


def _texts(column: pa.Array) -> list[str | None]:
    """The column as Python strings; values that are not UTF-8 become None, like missing ones."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_decoded(value) for value in column]


def _decoded(value: pa.Scalar) -> str | None:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None


def _text(value: str | None, name: str) -> str:
    if value is None or not value.strip():
        raise BadLine(f"{name} is empty" if value is not None else f"{name} is missing or not UTF-8")
    return value


def _class(value: str | None) -> int:
    found = _LABELS.get(value.strip().lower()) if value is not None else None
    if found is None:
        said = "is missing" if value is None else f"is {shown(value)}"
        raise BadLine(f"esci_label {said}; the classes are E, S, C and I (exact, substitute, complement, irrelevant)")
    return found
