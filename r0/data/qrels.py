"""Judgements of any format, one by one: BEIR's TSV, TREC's qrels, BRIGHT's queries, or a table of judgements.

A table has the columns ``query-id``, ``corpus-id`` and ``score`` (``COLUMNS`` lists the other names) as JSON lines, a JSON
array, comma-separated values or parquet. In BRIGHT's queries (``{"id", "gold_ids"}``) the gold documents have grade 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from r0.data.columns import judgement_columns, read_columns
from r0.data.compressed import PARQUET, head_of
from r0.data.fields import id_of
from r0.data.grades import as_number, grade_of
from r0.data.jsonl import BadLine, BadLines, Row, read_lines, readable_file, shown

WHAT = "judgements: BEIR's tsv, TREC's qrels, a table with query-id, corpus-id and score, or BRIGHT's queries as JSONL"
COLUMNS = (
    ("query-id", "query_id", "qid", "topic"),
    ("corpus-id", "corpus_id", "doc_id", "docid", "document_id", "pid", "passage_id"),
    ("score", "grade", "relevance", "rel", "label", "judgment", "judgement"),
)
_MORE_NAMES: tuple[set[str], ...] = ({"query", "query--id", "topic-id"}, {"document", "doc"}, set())  # of headers alone
_HEADER = tuple(
    frozenset(name.replace("_", "-") for name in names) | more for names, more in zip(COLUMNS, _MORE_NAMES, strict=True)
)
_START = b"\xef\xbb\xbf"


class Judgement(NamedTuple):
    """The grade of a document for a query, by their ids; ``number`` is the line."""

    number: int
    query: str
    document: str
    grade: float


def read_all(path: Path, bad: BadLines) -> Iterator[Judgement]:
    """The judgements of a file in order.

    Raises:
        UserError: the file cannot be used, or a line is bad and ``bad`` does not skip.
    """
    if has_rows(path):
        for line in read_lines(path, bad, f"reading {path.name}"):
            try:
                yield from _of_row(line.number, line.row)
            except BadLine as error:
                bad.refuse(path, line.number, str(error))
        return
    for number, (query, document, grade) in read_columns(path, bad, judgement_columns, names=_HEADER):
        try:
            if not (query and document):
                raise BadLine("an id is empty")
            yield Judgement(number, query, document, as_number(grade))
        except BadLine as error:
            bad.refuse(path, number, str(error))


def has_rows(path: Path) -> bool:
    """Whether a file holds rows (JSON, parquet, comma-separated values) instead of TREC's columns."""
    head = head_of(readable_file(path, WHAT)).removeprefix(_START)
    named = ".csv" in [suffix.lower() for suffix in path.suffixes]
    return named or head.lstrip()[:1] in (b"{", b"[") or head.startswith(PARQUET + b"\x15")


def _of_row(number: int, row: Row) -> Iterator[Judgement]:
    if "gold_ids" in row or "excluded_ids" in row:
        query = bright_id(row)
        yield from (Judgement(number, query, document, 1.0) for document in ids_of(row, "gold_ids"))
        return
    keys = [next((name for name in names if name in row), names[0]) for names in COLUMNS]
    yield Judgement(number, id_of(row, keys[0]), id_of(row, keys[1]), grade_of(row, keys[2]))


def bright_id(row: Row) -> str:
    """The id of a query of BRIGHT: ``id``, or ``_id`` where the file is one of a BEIR folder.

    Raises:
        BadLine: it is missing or no id.
    """
    return id_of(row, "_id" if "_id" in row else "id")


def ids_of(row: Row, key: str) -> Sequence[str]:
    """The list of document ids at ``key``.

    Raises:
        BadLine: it is missing or no list of ids.
    """
    value = row.get(key)
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise BadLine(f"{shown(key)} must be a list of document ids")
    return value
