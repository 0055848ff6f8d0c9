"""Reads and writes TREC runs and judgements with their ids, for evaluation and reranking.

A run is ordered as by trec_eval: by score in single precision, best first, equal scores by document id in descending order;
its rank column is ignored. Runs are written so that every tool reads the intended order: scores are strictly decreasing, also
in single precision. Columns are separated by spaces; in lines with an id that contains a space, by tabs (r0 and other tools
that split on tabs can read those; trec_eval cannot).
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from r0.data.columns import candidate, read_columns, run_columns
from r0.data.jsonl import BadLine, BadLines, readable_file, shown
from r0.data.qrels import WHAT, read_all
from r0.errors import UserError
from r0.storage.files import write_atomic, writing

_SMALLEST = float(np.finfo(np.float32).tiny)  # smaller numbers are denormal, which some tools read as 0
_LARGEST = float(np.finfo(np.float32).max)


def read_run(path: Path, bad: BadLines) -> dict[str, dict[str, float]]:
    """Query id → document id → score, both in file order (``given_order`` sorts a query's documents).

    Raises:
        UserError: the file cannot be used or has no candidate; or a line is bad or a candidate occurs twice, and bad lines
            are not skipped.
    """
    run: dict[str, dict[str, float]] = {}
    for number, columns in read_columns(readable_file(path, "a TREC run"), bad, run_columns):
        try:
            query, document, score = candidate(columns)
            documents = run.setdefault(query, {})
            if document in documents:
                raise BadLine("this candidate (query and document) occurs twice")
        except BadLine as error:
            bad.refuse(path, number, str(error))
            continue
        documents[sys.intern(document)] = score
    if not run:
        raise UserError(f"{path}: contains no candidates; give a TREC run with lines of `query Q0 document rank score tag`")
    return run


def read_judgements(path: Path, bad: BadLines) -> dict[str, dict[str, float]]:
    """Query id → document id → grade, in any format of ``qrels``.

    Raises:
        UserError: the file cannot be used or has no judgement; or a line is bad or a pair is judged twice, and bad lines are not
            skipped.
    """
    judged: dict[str, dict[str, float]] = {}
    for number, query, document, grade in read_all(path, bad):
        grades = judged.setdefault(query, {})
        if document in grades:
            bad.refuse(path, number, "this judgement (query and document) occurs twice")
            continue
        grades[sys.intern(document)] = grade
    if not judged:
        raise UserError(f"{path}: contains no judgements; give {WHAT}")
    return judged


def given_order(scores: Mapping[str, float]) -> list[str]:
    """The document ids of one query in trec_eval's order, best first."""
    single = array("f", scores.values())
    return [document for _, document in sorted(zip(single, scores, strict=True), reverse=True)]


def write_run(path: Path, lists: Iterable[tuple[str, Sequence[tuple[str, float]]]], tag: str) -> None:
    """Write a run atomically, creating missing parent folders.

    Args:
        path: the file to write.
        lists: (query id, [(document id, score), …] best first) of each query. A score that is not below the previous one, in
            single precision, is written as the next smaller number.
        tag: name of the run, for its last column.

    Raises:
        UserError: an id or the tag is not allowed in a run, or writing fails.
        ValueError: scores increase (in single precision) or are not finite.
    """
    check_tag(tag)
    content = "".join(line for query, documents in lists for line in _lines(query, documents, tag))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.encode("utf-8"))


def _lines(query: str, documents: Sequence[tuple[str, float]], tag: str) -> Iterator[str]:
    check_id(query)
    falling = _falling([score for _, score in documents])
    for rank, ((document, _), score) in enumerate(zip(documents, falling, strict=True), 1):
        check_id(document)
        columns = (query, "Q0", document, str(rank), str(score), tag)
        yield ("\t" if len(query.split()) + len(document.split()) > 2 else " ").join(columns) + "\n"


def _falling(scores: Sequence[float]) -> list[np.float32]:
    """The scores in single precision, strictly decreasing."""
    singles = [np.float32(min(max(score, -_LARGEST / 2), _LARGEST / 2)) for score in scores]
    if not all(map(math.isfinite, scores)) or any(after > before for before, after in pairwise(singles)):
        raise ValueError("scores of a run must be finite and best first")
    found: list[np.float32] = []
    for single in singles:
        if found and single >= found[-1]:
            single = np.nextafter(found[-1], np.float32(-np.inf))
        if abs(single) < _SMALLEST:
            single = np.float32(0) if not found or found[-1] > 0 else np.float32(-_SMALLEST)
        found.append(single)
    return found


def check_tag(tag: str) -> None:
    """Refuse a run name that is not one word.

    Raises:
        UserError: it is not.
    """
    if not tag or len(tag.split()) != 1:
        raise UserError(f"tag: {shown(tag)} is not allowed in a run's last column; give one word")


def check_id(name: str) -> None:
    """Refuse an id that is not allowed in a run.

    Raises:
        UserError: it is not allowed.
    """
    if not name or name != name.strip() or any(letter in name for letter in "\t\r\n"):
        raise UserError(
            f"the id {shown(name)} is not allowed in a TREC run (empty, or a tab, line break or surrounding space in it); "
            "rename it"
        )
