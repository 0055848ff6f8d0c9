"""TREC files: runs (``query Q0 document rank score tag``) and judgements (``query document grade``, or TREC's four columns).

Columns are split on tabs if that gives the right number of columns, otherwise on any white space. Ids are stored as 64-bit
hashes, so that a run with millions of candidates stays small; to name an id in a message, its line is read again.
(``runfile`` reads the same files with their ids, for code that writes them.)

A run is ordered as by trec_eval: by score in single precision, best first, equal scores by document id in descending order.
Its rank column is ignored.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from r0.data.hashes import pair_hashes, text_hash
from r0.data.jsonl import BadLine, BadLines, readable_file, shown
from r0.data.progress import progress
from r0.errors import UserError

MAX_LINE_BYTES = 1 << 16
RUN_COLUMNS, JUDGEMENT_COLUMNS = (6,), (3, 4)


class Run:
    """The candidates of a run, in file order; if ``ordered``, by query (in order of appearance), each in trec_eval's order.

    ``queries_N`` [rows] int32 indexes the distinct queries in ``query_ids_Q`` [queries] uint64 (hashes, in order of
    appearance). ``documents_N`` and ``pairs_N`` [rows] uint64 are hashes of the document id and of the pair; ``lines_N``
    int32 are line numbers.

    Raises:
        UserError: a bad line (that is not skipped), a repeated candidate, or no candidate at all.
    """

    def __init__(self, path: Path, bad: BadLines, ordered: bool = False):
        self.path = readable_file(path, "a TREC run")
        seen: dict[int, int] = {}
        queries, documents, lines, scores = array("i"), array("Q"), array("i"), array("f")
        for number, columns in read_columns(path, bad, RUN_COLUMNS):
            try:
                query, document, score = candidate(columns)
            except BadLine as error:
                bad.refuse(path, number, str(error))
                continue
            queries.append(seen.setdefault(text_hash(query), len(seen)))
            documents.append(text_hash(document))
            lines.append(number)
            if ordered:
                scores.append(score)
        self.queries_N = np.frombuffer(queries, np.int32)
        self.documents_N = np.frombuffer(documents, np.uint64)
        self.lines_N = np.frombuffer(lines, np.int32)
        self.query_ids_Q = np.fromiter(seen, np.uint64, len(seen))
        self.pairs_N = pair_hashes(self.query_ids_Q[self.queries_N], self.documents_N)
        if not len(self):
            raise UserError(f"{path}: contains no candidates; give a TREC run with lines of `query Q0 document rank score tag`")
        first_N = _without_repeats(self.pairs_N, self.lines_N, path, bad, "candidate")
        order_N = self._order(np.frombuffer(scores, np.float32)) if ordered else np.arange(len(self))
        self._keep(order_N[first_N[order_N]])

    def __len__(self) -> int:
        return len(self.queries_N)

    def leave_out(self, missing_N: np.ndarray, what: str, column: int, where: Path, bad: BadLines) -> None:
        """Drop the candidates marked in ``missing_N`` [rows] bool, whose id (in ``column``) is missing from the file ``where``.

        Raises:
            UserError: there are any, and bad lines are not skipped; the message names the first ids.
        """
        if not missing_N.any():
            return
        lines = self.lines_N[missing_N]
        for number, columns in read_columns(self.path, BadLines(skip=True), RUN_COLUMNS, set(np.sort(lines)[:10].tolist())):
            others = f" (true of {len(lines)} candidates)" if len(lines) > 1 else ""
            bad.refuse(self.path, number, f"the {what} {shown(columns[column])} is not in {where}{others}")
        bad.count += max(0, len(lines) - 10)
        self._keep(np.flatnonzero(~missing_N))

    def _keep(self, rows_K: np.ndarray) -> None:
        self.queries_N, self.documents_N = self.queries_N[rows_K], self.documents_N[rows_K]
        self.pairs_N, self.lines_N = self.pairs_N[rows_K], self.lines_N[rows_K]

    def _order(self, scores_N: np.ndarray) -> np.ndarray:
        """int64 [N]: the rows by query, each query in trec_eval's order."""
        order_N = np.lexsort((-scores_N, self.queries_N))
        queries_N, best_N = self.queries_N[order_N], scores_N[order_N]
        same_N = (queries_N[1:] == queries_N[:-1]) & (best_N[1:] == best_N[:-1])
        tied_N = order_N[np.append(same_N, False) | np.append(False, same_N)]
        if not len(tied_N):
            return order_N
        places_N = np.zeros(len(self), np.int64)  # rank of a tied row's document id; only tied rows need the id's text
        tied = read_columns(self.path, BadLines(skip=True), RUN_COLUMNS, set(self.lines_N[tied_N].tolist()))
        found = {number: columns[2] for number, columns in tied}
        rank = {document: place for place, document in enumerate(sorted(set(found.values())))}
        places_N[tied_N] = [rank[found[line]] for line in self.lines_N[tied_N].tolist()]
        return np.lexsort((-places_N, -scores_N, self.queries_N))


class Judgements(NamedTuple):
    """Judged pairs, sorted by their hash."""

    pairs: np.ndarray  # uint64 [J]
    grades: np.ndarray  # float64 [J]

    def of(self, pairs_N: np.ndarray) -> np.ndarray:
        """float64 [N]: the grade of each pair (hashes, uint64), NaN if there is no judgement."""
        if not len(self.pairs):
            return np.full(len(pairs_N), np.nan)
        at_N = np.minimum(np.searchsorted(self.pairs, pairs_N), len(self.pairs) - 1)
        return np.where(self.pairs[at_N] == pairs_N, self.grades[at_N], np.nan)

    def positive(self) -> Judgements:
        """The judgements with a grade above 0."""
        return Judgements(self.pairs[self.grades > 0], self.grades[self.grades > 0])


def read_qrels(path: Path, bad: BadLines, least: float = -math.inf, most: float = math.inf) -> Judgements:
    """Judgements by the hashes of their id pairs.

    Raises:
        UserError: a bad line (that is not skipped), a pair judged twice, or a grade outside ``least`` to ``most``.
    """
    queries, documents, grades, lines = array("Q"), array("Q"), array("d"), array("i")
    what = "judgements (query-id, corpus-id, score)"
    for number, columns in read_columns(readable_file(path, what), bad, JUDGEMENT_COLUMNS):
        try:
            query, document, grade = judgement(columns)
            if not least <= grade <= most:
                raise BadLine(f"the grade {grade:g} is outside {least:g} to {most:g}")
        except BadLine as error:
            if number > 1 or not is_header(columns):
                bad.refuse(path, number, str(error))
            continue
        queries.append(text_hash(query))
        documents.append(text_hash(document))
        grades.append(grade)
        lines.append(number)
    pairs_J = pair_hashes(np.frombuffer(queries, np.uint64), np.frombuffer(documents, np.uint64))
    grades_J = np.frombuffer(grades, np.float64)
    kept_J = _without_repeats(pairs_J, np.frombuffer(lines, np.int32), path, bad, "judgement")
    pairs_J, grades_J = pairs_J[kept_J], grades_J[kept_J]
    order_J = np.argsort(pairs_J)
    return Judgements(pairs_J[order_J], grades_J[order_J])


def read_columns(
    path: Path, bad: BadLines, counts: tuple[int, ...], wanted: set[int] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of the lines that are not blank, restricted to ``wanted`` line numbers if given.

    A line is split on tabs if that gives one of ``counts`` columns (so ids may contain spaces), otherwise on any white space.
    """
    with path.open("rb") as file, progress(f"reading {path.name}", path.stat().st_size) as advance:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES):
            number += 1
            advance(len(raw))
            if wanted is not None and number not in wanted:
                continue
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                bad.refuse(path, number, f"not UTF-8 at byte {error.start + 1}")
                continue
            if text.strip():
                tabbed = [column.strip() for column in text.split("\t")]
                yield number, tabbed if len(tabbed) in counts else text.split()


def candidate(columns: list[str]) -> tuple[str, str, float]:
    """(query id, document id, score) of a run's line.

    Raises:
        BadLine: not six columns, an empty id, or a score that is not a finite number.
    """
    if len(columns) != 6:
        raise BadLine(f"{len(columns)} columns where a run has 6: query Q0 document rank score tag")
    score = _finite(columns[4], "score")
    if not (columns[0] and columns[2]):
        raise BadLine("an id is empty")
    return columns[0], columns[2], score


def judgement(columns: list[str]) -> tuple[str, str, float]:
    """(query id, document id, grade) of a line of judgements.

    Raises:
        BadLine: neither three nor four columns, an empty id, or a grade that is not a finite number.
    """
    if len(columns) not in (3, 4):
        raise BadLine(f"{len(columns)} columns where judgements have 3 (query-id corpus-id score) or 4 (query 0 document grade)")
    query, document, grade = columns[0], columns[-2], _finite(columns[-1], "grade")
    if not (query and document):
        raise BadLine("an id is empty")
    return query, document, grade


def is_header(columns: list[str]) -> bool:
    """Whether the first line of judgements is a header with column names, as in BEIR's files."""
    return len(columns) in (3, 4) and columns[0].lower().replace("_", "-") in ("query-id", "qid", "query", "query-_id")


def _finite(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadLine(f"the {what} {shown(text)} is not a number") from None
    if not math.isfinite(value):
        raise BadLine(f"the {what} {shown(text)} is not finite")
    return value


def _without_repeats(pairs_N: np.ndarray, lines_N: np.ndarray, path: Path, bad: BadLines, what: str) -> np.ndarray:
    """bool [N]: True for the first occurrence of each pair."""
    kept_N = np.zeros(len(pairs_N), bool)
    kept_N[np.unique(pairs_N, return_index=True)[1]] = True
    for number in lines_N[~kept_N].tolist():
        bad.refuse(path, number, f"this {what} (query and document) occurs twice")
    return kept_N
