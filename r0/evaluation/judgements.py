"""Judgements of one data set, in any format of ``r0.data.qrels``, and what BRIGHT's queries exclude.

BRIGHT: ``{"id", "query", "gold_ids", "excluded_ids"}``. Gold documents have grade 1. Excluded documents (for example the page
that a question was derived from) are not part of the task for that query, and are dropped from each run before measuring.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from r0.data.jsonl import BadLine, BadLines, read_lines, readable_file, shown
from r0.data.qrels import COLUMNS, bright_id, has_rows, ids_of
from r0.data.runfile import read_judgements
from r0.errors import UserError

_NOTHING_EXCLUDED = "N/A"  # BRIGHT's notation for an empty list


@dataclass(frozen=True, slots=True)
class Judgements:
    """The judgements of a data set, by query id: grades of documents, and excluded documents."""

    grades: dict[str, dict[str, float]]
    excluded: dict[str, frozenset[str]]


def open_judgements(paths: Sequence[Path], excluded: Sequence[Path], bad: BadLines) -> Judgements:
    """Read the judgements of a data set (several files are merged) and the exclusions in BRIGHT's query files.

    Raises:
        UserError: a file cannot be used, a line is bad (that is not skipped), a pair is judged in two files, or a document is
            both relevant and excluded for a query.
    """
    grades: dict[str, dict[str, float]] = {}
    dropped: dict[str, frozenset[str]] = {}
    for path in paths:
        for query, documents in _grades_of(path, bad, dropped).items():
            known = grades.setdefault(query, {})
            twice = min(known.keys() & documents.keys(), default=None)
            if twice is not None:
                pair = f"query {shown(query)}, document {shown(twice)}"
                raise UserError(f"{path}: {pair}: already judged in another file; keep one of the two")
            known.update(documents)
    for path in excluded:
        for entry in _entries(path, bad, gold=False):
            dropped[entry.query] = dropped.get(entry.query, frozenset()) | entry.excluded
    _refuse_contradictions(grades, dropped)
    return Judgements(grades, dropped)


def drop_excluded(run: dict[str, dict[str, float]], excluded: Mapping[str, frozenset[str]]) -> int:
    """Remove the excluded documents from a run; return their number."""
    count = 0
    for query, documents in excluded.items():
        for document in documents & run.get(query, {}).keys():
            del run[query][document]
            count += 1
    return count


class _Entry(NamedTuple):
    """One line of BRIGHT's query file."""

    query: str
    gold: Sequence[str]
    excluded: frozenset[str]


def _grades_of(path: Path, bad: BadLines, dropped: dict[str, frozenset[str]]) -> dict[str, dict[str, float]]:
    """The grades in one file; the exclusions of a file of queries are added to ``dropped``."""
    if not _is_bright(path, bad.skip):
        return read_judgements(path, bad)
    grades = {}
    for entry in _entries(path, bad, gold=True):
        grades[entry.query] = dict.fromkeys(entry.gold, 1.0)
        dropped[entry.query] = dropped.get(entry.query, frozenset()) | entry.excluded
    if not grades:
        raise UserError(f"{path}: contains no queries; give lines with id and gold_ids")
    return grades


def _is_bright(path: Path, skip_bad: bool) -> bool:
    """Whether a file holds BRIGHT's queries, judged by its first row."""
    if not has_rows(path):
        return False
    first = next(read_lines(path, BadLines(skip_bad)), None)
    return first is not None and not first.row.keys() & set(COLUMNS[0])


def _entries(path: Path, bad: BadLines, gold: bool) -> Iterator[_Entry]:
    """The lines of a query file. ``gold_ids`` is read only with ``gold``; without it ``excluded_ids`` is required."""
    seen: set[str] = set()
    for line in read_lines(readable_file(path, "BRIGHT's queries as JSONL: id, gold_ids, excluded_ids"), bad):
        try:
            query = bright_id(line.row)
            if query in seen:
                raise BadLine('this "id" occurs twice')
            entry = _Entry(
                query,
                ids_of(line.row, "gold_ids") if gold else [],
                frozenset(ids_of(line.row, "excluded_ids") if "excluded_ids" in line.row or not gold else ())
                - {_NOTHING_EXCLUDED},
            )
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        seen.add(query)
        yield entry


def _refuse_contradictions(grades: Mapping[str, Mapping[str, float]], dropped: Mapping[str, frozenset[str]]) -> None:
    for query, documents in dropped.items():
        judged = grades.get(query, {})
        both = min((document for document in documents if judged.get(document, 0) > 0), default=None)
        if both is not None:
            pair = f"query {shown(query)}, document {shown(both)}"
            raise UserError(f"{pair}: both relevant and excluded; remove it from one of the two lists")
