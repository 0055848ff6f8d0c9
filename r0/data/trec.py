"""TREC files: runs (``query Q0 document rank score tag``) and judgements (``query document grade``, or TREC's four columns).

Columns are split on tabs where that gives the right number of them, else on any white space. Ids are kept as 64-bit hashes,
so that a run with millions of candidates stays small; where an id has to be named in a message, its line is read again.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from r0.data.hashes import text_hash
from r0.data.jsonl import BadLine, BadLines, readable_file, shown
from r0.data.progress import progress
from r0.errors import UserError

MAX_LINE_BYTES = 1 << 16


def pair_hash(query_id: str, document_id: str) -> int:
    """Hash of a (query, document) pair of ids."""
    return text_hash(f"{query_id}\t{document_id}")


class Run:
    """The candidates of a run, in the order of the file.

    ``queries_N`` [rows] int32 numbers the distinct queries in ``query_ids_Q`` [queries] uint64 (hashes, in order of appearance);
    ``documents_N`` and ``pairs_N`` [rows] uint64 are hashes of the document id and of the pair; ``lines_N`` int32 their lines.

    Raises:
        UserError: a bad line (where those are not skipped), a candidate twice, or no candidate at all.
    """

    def __init__(self, path: Path, bad: BadLines):
        self.path = readable_file(path, "a TREC run")
        seen: dict[int, int] = {}
        queries, documents, pairs, lines = array("i"), array("Q"), array("Q"), array("i")
        for number, columns in _columns(path, bad):
            try:
                query, document = _candidate(columns)
            except BadLine as error:
                bad.refuse(path, number, str(error))
                continue
            queries.append(seen.setdefault(text_hash(query), len(seen)))
            documents.append(text_hash(document))
            pairs.append(pair_hash(query, document))
            lines.append(number)
        self.queries_N = np.frombuffer(queries, np.int32)
        self.documents_N = np.frombuffer(documents, np.uint64)
        self.pairs_N = np.frombuffer(pairs, np.uint64)
        self.lines_N = np.frombuffer(lines, np.int32)
        self.query_ids_Q = np.fromiter(seen, np.uint64, len(seen))
        if not len(self):
            raise UserError(f"{path}: no candidates in it; give a TREC run with lines of `query Q0 document rank score tag`")
        self._keep(_without_repeats(self.pairs_N, self.lines_N, path, bad, "candidate"))

    def __len__(self) -> int:
        return len(self.queries_N)

    def leave_out(self, missing_N: np.ndarray, what: str, column: int, where: Path, bad: BadLines) -> None:
        """Drop the candidates marked in ``missing_N`` [rows] bool, because their id (in ``column``) is not in the file ``where``.

        Raises:
            UserError: there are some, and bad lines are not skipped; the first ids are named.
        """
        if not missing_N.any():
            return
        lines = self.lines_N[missing_N]
        for number, columns in _columns(self.path, BadLines(skip=True), set(lines[:10].tolist())):
            others = f" ({len(lines)} candidates miss theirs)" if len(lines) > 1 else ""
            bad.refuse(self.path, number, f"the {what} {shown(columns[column])} is not in {where}{others}")
        bad.count += max(0, len(lines) - 10)
        self._keep(~missing_N)

    def _keep(self, kept_N: np.ndarray) -> None:
        if not kept_N.all():
            self.queries_N, self.documents_N = self.queries_N[kept_N], self.documents_N[kept_N]
            self.pairs_N, self.lines_N = self.pairs_N[kept_N], self.lines_N[kept_N]


def read_qrels(path: Path, bad: BadLines, least: float = -math.inf, most: float = math.inf) -> tuple[np.ndarray, np.ndarray]:
    """Judgements as (pair hashes uint64 [J], sorted; grades float32 [J]).

    Raises:
        UserError: a bad line (where those are not skipped), a pair judged twice, a grade outside ``least`` to ``most``.
    """
    pairs, grades, lines = array("Q"), array("f"), array("i")
    for number, columns in _columns(readable_file(path, "judgements (query-id, corpus-id, score)"), bad):
        try:
            query, document, grade = _judgement(columns)
            if not least <= grade <= most:
                raise BadLine(f"the grade {grade:g} is outside {least:g} to {most:g}")
        except BadLine as error:
            if number > 1 or not _is_header(columns):
                bad.refuse(path, number, str(error))
            continue
        pairs.append(pair_hash(query, document))
        grades.append(grade)
        lines.append(number)
    pairs_J, grades_J = np.frombuffer(pairs, np.uint64), np.frombuffer(grades, np.float32)
    kept_J = _without_repeats(pairs_J, np.frombuffer(lines, np.int32), path, bad, "judgement")
    pairs_J, grades_J = pairs_J[kept_J], grades_J[kept_J]
    order = np.argsort(pairs_J)
    return pairs_J[order], grades_J[order]


def _columns(path: Path, bad: BadLines, wanted: set[int] | None = None) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of the lines that are not blank; of the ``wanted`` ones only where those are given."""
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
                yield number, tabbed if len(tabbed) in (3, 4, 6) else text.split()


def _candidate(columns: list[str]) -> tuple[str, str]:
    if len(columns) != 6:
        raise BadLine(f"{len(columns)} columns where a run has 6: query Q0 document rank score tag")
    _finite(columns[4], "score")
    if not (columns[0] and columns[2]):
        raise BadLine("an id is empty")
    return columns[0], columns[2]


def _judgement(columns: list[str]) -> tuple[str, str, float]:
    if len(columns) not in (3, 4):
        raise BadLine(f"{len(columns)} columns where judgements have 3 (query-id corpus-id score) or 4 (query 0 document grade)")
    query, document, grade = columns[0], columns[-2], _finite(columns[-1], "grade")
    if not (query and document):
        raise BadLine("an id is empty")
    return query, document, grade


def _is_header(columns: list[str]) -> bool:
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
    """bool [N]: the first of each pair."""
    kept_N = np.zeros(len(pairs_N), bool)
    kept_N[np.unique(pairs_N, return_index=True)[1]] = True
    for number in lines_N[~kept_N].tolist():
        bad.refuse(path, number, f"this {what} (query and document) was there before")
    return kept_N
