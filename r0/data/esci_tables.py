"""The tables of Amazon's ESCI data: rows of examples and of products, and the text of an item.

Both are read from parquet in batches, with the needed columns only, or from comma-separated values and JSON lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from r0.data.compressed import PARQUET, binary_format, head_of
from r0.data.jsonl import BadLine, BadLines, Row, read_lines, readable_file, shown
from r0.data.progress import progress
from r0.errors import UserError, reason

PRODUCT_TEXTS = ("product_title", "product_brand", "product_color", "product_bullet_point", "product_description")
PRODUCT_KEY = ("product_id", "product_locale")
ROWS_A_BATCH = 4096
_TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)

Products = Mapping[tuple[str, str], str]  # product id and locale → text


def table_rows(
    path: Path, columns: Collection[str], texts: Collection[str], bad: BadLines, what: str, title: str = ""
) -> Iterator[tuple[int, Row]]:
    """(number, row) of every row of a table, numbered from 1 (by lines, where it is text).

    Args:
        path: the table.
        columns: what is read, where the table has it.
        texts: the columns that must hold text.
        bad: takes rows that cannot be read.
        what: what to give instead of a file that cannot be used, in words.
        title: shown with the progress of a long pass.

    Raises:
        UserError: the file cannot be used; or a row is bad and ``bad`` does not skip.
    """
    if path.suffix != ".parquet" and not binary_format(head_of(readable_file(path, what))):
        for line in read_lines(path, bad, title):
            yield line.number, {name: line.row.get(name) for name in columns if name in line.row}
        return
    readable_file(path, what)
    try:
        with pq.ParquetFile(path) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            _check_texts(path, file.schema_arrow, [name for name in present if name in texts])
            yield from _of_parquet(path, file, present, title)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: is not a readable parquet file ({reason(error).rstrip('.')}); give {what}") from None


def columns_of(path: Path, bad: BadLines) -> tuple[str, ...]:
    """The names of a table's columns; those of the first row, where it is not parquet.

    Raises:
        UserError: the file cannot be read.
    """
    if head_of(path).startswith(PARQUET):
        try:
            return tuple(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: is not a readable parquet file ({reason(error).rstrip('.')}); write it again") from None
    return tuple(next((line.row for line in read_lines(path, BadLines(bad.skip))), {}))


def read_products(path: Path, wanted: Collection[tuple[str, str]], bad: BadLines) -> Products:
    """The texts of the ``wanted`` products.

    Raises:
        UserError: the file cannot be used or lacks a column.
    """
    what = "Amazon's products: a table with product_id, product_locale and product_title"
    columns = (*PRODUCT_KEY, *PRODUCT_TEXTS)
    missing = [name for name in columns[:3] if name not in columns_of(readable_file(path, what), bad)]
    if missing:
        raise UserError(f"{path}: the column {missing[0]} is missing; give {what}")
    found: dict[tuple[str, str], str] = {}
    for number, row in table_rows(path, columns, columns, bad, what, f"reading {path.name}"):
        key = str(row.get("product_id")), str(row.get("product_locale"))
        if key in wanted:
            try:
                found[key] = product_text(row)
            except BadLine as error:
                bad.refuse(path, number, str(error))
    return found


def product_text(row: Row) -> str:
    """Title, brand, color, bullet points and description, one below the other; those that are missing are left out.

    Raises:
        BadLine: one is no text.
    """
    texts = [row.get(name) for name in PRODUCT_TEXTS]
    wrong = next((name for name, text in zip(PRODUCT_TEXTS, texts, strict=True) if not isinstance(text, str | None)), None)
    if wrong is not None:
        raise BadLine(f"{shown(wrong)} must be text")
    return "\n".join(text.strip() for text in texts if isinstance(text, str) and text.strip())


def _of_parquet(path: Path, file: pq.ParquetFile, columns: list[str], title: str) -> Iterator[tuple[int, Row]]:
    number, bytes_a_row = 0, path.stat().st_size / max(1, file.metadata.num_rows)
    with progress(title, path.stat().st_size) as advance:
        for batch in file.iter_batches(ROWS_A_BATCH, columns=columns):
            for values in zip(*(_values(batch.column(name)) for name in columns), strict=True):
                number += 1
                yield number, dict(zip(columns, values, strict=True))
            advance(round(len(batch) * bytes_a_row))


def _check_texts(path: Path, schema: pa.Schema, names: list[str]) -> None:
    for name in names:
        kind = schema.field(name).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(is_text(inner) for is_text in _TEXT_TYPES):
            raise UserError(f"{path}: the column {name} has type {kind} and must hold text; convert it to strings")


def _values(column: pa.Array) -> list:
    """The column as Python values; texts that are not UTF-8 become None, like missing ones."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_decoded(value) for value in column]


def _decoded(value: pa.Scalar) -> str | None:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return None
