"""TREC runs and judgements with their ids: what evaluation and reranking read and write.

A run is ordered as trec_eval orders it: by score in single precision, best first, equal scores by document id, last first; its
rank column says nothing. Runs are written so that every tool reads the order that was meant: scores fall strictly, in single
precision too. Columns are separated by a space, in lines with an id that holds a space by a tab (r0 reads those, and so does
whatever splits on tabs; trec_eval does not).
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from r0.data.jsonl import BadLine, BadLines, readable_file, shown
from r0.data.trec import JUDGEMENT_COLUMNS, RUN_COLUMNS, candidate, is_header, judgement, read_columns
from r0.errors import UserError
from r0.storage.files import write_atomic, writing

_SMALLEST = float(np.finfo(np.float32).tiny)  # below it numbers are denormal, which some tools take for 0
_LARGEST = float(np.finfo(np.float32).max)


def read_run(path: Path, bad: BadLines) -> dict[str, dict[str, float]]:
    """Query id → document id → score, both in the order of the file (``given_order`` orders a query's documents).

    Raises:
        UserError: the file cannot be used or holds no candidate, or a line is bad or a candidate there twice (where bad lines
            are not skipped).
    """
    run: dict[str, dict[str, float]] = {}
    for number, columns in read_columns(readable_file(path, "a TREC run"), bad, RUN_COLUMNS):
        try:
            query, document, score = candidate(columns)
            documents = run.setdefault(query, {})
            if document in documents:
                raise BadLine("this candidate (query and document) was there before")
        except BadLine as error:
            bad.refuse(path, number, str(error))
            continue
        documents[sys.intern(document)] = score
    if not run:
        raise UserError(f"{path}: no candidates in it; give a TREC run with lines of `query Q0 document rank score tag`")
    return run


def read_judgements(path: Path, bad: BadLines) -> dict[str, dict[str, int]]:
    """Query id → document id → grade, from BEIR's tsv (with or without its header) or TREC's four columns.

    Raises:
        UserError: the file cannot be used or holds no judgement, or a line is bad, a grade no whole number, or a pair judged
            twice (where bad lines are not skipped).
    """
    judged: dict[str, dict[str, int]] = {}
    what = "judgements: lines of `query-id corpus-id score`, or of `query 0 document grade`"
    for number, columns in read_columns(readable_file(path, what), bad, JUDGEMENT_COLUMNS):
        try:
            query, document, grade = judgement(columns)
            if not grade.is_integer():
                raise BadLine(f"the grade {shown(columns[-1])} is no whole number")
            grades = judged.setdefault(query, {})
            if document in grades:
                raise BadLine("this judgement (query and document) was there before")
        except BadLine as error:
            if number > 1 or not is_header(columns):
                bad.refuse(path, number, str(error))
            continue
        grades[sys.intern(document)] = int(grade)
    if not judged:
        raise UserError(f"{path}: no judgements in it; give {what}")
    return judged


def given_order(scores: Mapping[str, float]) -> list[str]:
    """The document ids of one query as trec_eval orders them, best first."""
    single = array("f", scores.values())
    return [document for _, document in sorted(zip(single, scores, strict=True), reverse=True)]


def write_run(path: Path, lists: Iterable[tuple[str, Sequence[tuple[str, float]]]], tag: str) -> None:
    """Write a run, whole or not at all; folders on the way to it are made.

    Args:
        path: the file to write.
        lists: (query id, [(document id, score), …] best first) of each query. A score that is not below the one before it, in
            single precision, is written as the next number below that one.
        tag: name of the run in its last column.

    Raises:
        UserError: an id or the tag cannot stand in a run, or the file system refuses.
        ValueError: scores that rise (in single precision) or are not finite.
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
    """The scores in single precision, each below the one before it."""
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
    """Refuse a run's name that is not one word.

    Raises:
        UserError: it is not.
    """
    if not tag or len(tag.split()) != 1:
        raise UserError(f"tag: {shown(tag)} cannot stand in a run's last column; give one word")


def check_id(name: str) -> None:
    """Refuse an id that cannot be written into a run.

    Raises:
        UserError: it cannot.
    """
    if not name or name != name.strip() or any(letter in name for letter in "\t\r\n"):
        raise UserError(f"the id {shown(name)} cannot stand in a TREC run (empty, a tab, a line break or outer space); rename it")
