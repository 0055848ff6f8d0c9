"""Documents that have the id of the query itself: in collections such as ArguAna a query is one of the documents.

Such a document is no answer. The key ``ignore_identical_ids`` says whether it is dropped for its query. ``auto`` drops it where
every query id is the id of a document, except where this can be chance or intended: all ids are numbers, or a judgement says
that a document is relevant to the query of its own id.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from pathlib import Path
from typing import Literal

from r0.data.beir import read_texts
from r0.data.jsonl import BadLines
from r0.data.table import folder_file
from r0.errors import UserError
from r0.evaluation.judgements import open_judgements

Grades = Mapping[str, Mapping[str, float]]


def drops_identical(
    key: bool | Literal["auto"], queries: Collection[str], documents: Callable[[], Container[str]], grades: Callable[[], Grades]
) -> bool:
    """Whether documents with the id of their query are dropped.

    Args:
        key: the configured value.
        queries: ids of the queries.
        documents: returns the ids of all documents, or of those among the queries; called for ``auto`` only, as is ``grades``.
        grades: returns the judgements.
    """
    if key != "auto":
        return key
    if not queries or all(query.isdecimal() for query in queries):
        return False
    known = documents()
    if not all(query in known for query in queries):
        return False
    judged = grades()
    return not any(judged.get(query, {}).get(query, 0) > 0 for query in queries)


def drop_identical(run: dict[str, dict[str, float]], grades: Grades, key: bool | Literal["auto"]) -> int:
    """Remove the candidates that have the id of their query from a run, if they are dropped; return their number."""
    identical = [query for query, documents in run.items() if query in documents]
    queries = run.keys() & grades.keys()

    def documents() -> set[str]:
        return {name for listed in (*run.values(), *grades.values()) for name in listed if name in queries}

    if not identical or not drops_identical(key, queries, documents, lambda: grades):
        return 0
    for query in identical:
        del run[query][query]
    return len(identical)


def documents_of_folder(folder: Path, queries: Container[str]) -> set[str]:
    """The ids of a BEIR folder's documents that are also query ids."""
    corpus = read_texts(folder_file(folder, "corpus"), BadLines(skip=True), lambda _row: "", "a BEIR folder")
    return {name for name, _, _ in corpus if name in queries}


def grades_of_folder(folder: Path) -> Grades:
    """The judgements of all splits of a BEIR folder; files that cannot be read as such are passed over."""
    grades: dict[str, dict[str, float]] = {}
    for path in sorted((folder / "qrels").glob("*")):
        try:
            found = open_judgements([path], [], BadLines(skip=True)).grades
        except UserError:
            continue
        for query, documents in found.items():
            grades.setdefault(query, {}).update(documents)
    return grades


def said(dropped: int) -> str:
    """A sentence about the number of documents that were dropped; empty if there are none."""
    if not dropped:
        return ""
    were = "1 candidate with the id of its query was" if dropped == 1 else f"{dropped} candidates with the id of their query were"
    return f"{were} dropped (ignore_identical_ids=false keeps them)"
