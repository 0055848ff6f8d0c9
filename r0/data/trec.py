"""Indexes of runs and judgements by the hashes of their ids.

Ids are stored as 64-bit hashes, so that a run with millions of candidates stays small; to name an id in a message, its line is
read again. (``runfile`` reads the same files with their ids, for code that writes them.)

A run is ordered as by trec_eval: by score in single precision, best first, equal scores by document id in descending order.
Its rank column is ignored.
"""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from r0.data.columns import DOCUMENT, candidate, read_columns, run_columns
from r0.data.hashes import pair_hashes, text_hash
from r0.data.jsonl import BadLine, BadLines, readable_file, shown
from r0.data.qrels import read_all
from r0.errors import UserError


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
        for number, columns in read_columns(path, bad, run_columns):
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
        for number, columns in read_columns(self.path, BadLines(skip=True), run_columns, set(np.sort(lines)[:10].tolist())):
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
        tied = read_columns(self.path, BadLines(skip=True), run_columns, set(self.lines_N[tied_N].tolist()))
        found = {number: columns[DOCUMENT] for number, columns in tied}
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
    for number, query, document, grade in read_all(path, bad):
        if not least <= grade <= most:
            bad.refuse(path, number, f"the grade {grade:g} is outside {least:g} to {most:g}")
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


def _without_repeats(pairs_N: np.ndarray, lines_N: np.ndarray, path: Path, bad: BadLines, what: str) -> np.ndarray:
    """bool [N]: True for the first occurrence of each pair."""
    kept_N = np.zeros(len(pairs_N), bool)
    kept_N[np.unique(pairs_N, return_index=True)[1]] = True
    for number in lines_N[~kept_N].tolist():
        bad.refuse(path, number, f"this {what} (query and document) occurs twice")
    return kept_N
