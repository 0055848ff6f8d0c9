"""A BEIR folder with a TREC run: every candidate of the run is one row.

``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``), ``qrels/<split>.tsv``. Relevant means
a grade of at least the threshold; a candidate without a judgement is not relevant, and counted. The document is ``title. text``.
A candidate costs 9 bytes in memory, each document and query of the run 12 and 20 more: texts stay in their files.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from r0.data.hashes import query_hash, text_hash
from r0.data.index import RELEVANT, FileRows
from r0.data.jsonl import BadLine, BadLines, Row, read_lines, readable_file, shown, text_of
from r0.data.readers import LabelRule
from r0.data.trec import Run, read_qrels
from r0.errors import UserError
from r0.records import PointwiseTask

_DOCUMENT_COLUMN, _QUERY_COLUMN = 2, 0


class BeirRows:
    """The candidates of ``run`` as tasks.

    Raises:
        UserError: a file is missing or bad, an id is twice, or a candidate's query or document is not there.
    """

    def __init__(self, folder: Path, run: Path, split: str, rule: LabelRule, skip_bad: bool = False):
        self.name = str(folder)
        self.bad = BadLines(skip_bad)
        corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
        candidates = Run(run, self.bad)
        grades = read_qrels(_qrels(folder, split), self.bad, *((rule.least, rule.most) if rule.declared else ()))
        query_table = _table(queries, candidates.query_ids_Q, self.bad, hash_text=True)
        at_N = query_table.find(candidates.query_ids_Q)[candidates.queries_N]
        candidates.leave_out(at_N < 0, "query", _QUERY_COLUMN, queries, self.bad)
        document_table = _table(corpus, np.unique(candidates.documents_N), self.bad)
        at_N = document_table.find(candidates.documents_N)
        candidates.leave_out(at_N < 0, "document", _DOCUMENT_COLUMN, corpus, self.bad)
        if not len(candidates):
            raise UserError(f"{run}: none of its candidates is in {folder}; give the run that belongs to the folder")
        self._document_at_N = document_table.find(candidates.documents_N).astype(np.int32)
        self._query_at_N = query_table.find(candidates.query_ids_Q)[candidates.queries_N].astype(np.int32)
        self.flags_N, self.unjudged = _judge(candidates, *grades, rule.threshold)
        self._documents, self._queries = document_table.without_ids(), query_table.without_ids()
        self._corpus_file, self._query_file = FileRows(corpus), FileRows(queries)

    def __len__(self) -> int:
        return len(self.flags_N)

    def query_hashes(self) -> np.ndarray:
        """uint64 [rows]."""
        return self._queries.hashes[self._query_at_N]

    def task(self, row: int) -> PointwiseTask:
        """Read candidate ``row`` from the files.

        Raises:
            UserError: a file changed since it was indexed.
        """
        query = _read(self._query_file, self._queries, int(self._query_at_N[row]))
        document = _read(self._corpus_file, self._documents, int(self._document_at_N[row]))
        label = int(self.flags_N[row]) & RELEVANT
        try:
            return PointwiseTask(row, text_of(query, "text"), document_text(document), label)
        except BadLine:
            raise self._corpus_file.changed() from None

    def nbytes(self) -> int:
        """Bytes that the index holds in memory."""
        rows = self.flags_N.nbytes + self._document_at_N.nbytes + self._query_at_N.nbytes
        return rows + self._documents.nbytes() + self._queries.nbytes()


def document_text(row: Row) -> str:
    """``title. text``, as production logs join them; the text alone without a title.

    Raises:
        BadLine: ``text`` is missing or not a string, or ``title`` is not a string.
    """
    title = text_of(row, "title", blank=True).strip() if "title" in row else ""
    text = text_of(row, "text", blank=True)
    return f"{title}. {text}" if title else text


class _Table(NamedTuple):
    """Where the wanted lines of a file are, sorted by the hash of their id. ``hashes`` [n] are of query texts, or empty."""

    ids: np.ndarray  # uint64 [n]
    offsets: np.ndarray  # int64 [n]
    lengths: np.ndarray  # int32 [n]
    hashes: np.ndarray  # uint64 [n or 0]

    def find(self, ids_M: np.ndarray) -> np.ndarray:
        """int64 [M]: the place of each id, −1 where it is not there."""
        if not len(self.ids):
            return np.full(len(ids_M), -1)
        at_M = np.minimum(np.searchsorted(self.ids, ids_M), len(self.ids) - 1)
        return np.where(self.ids[at_M] == ids_M, at_M, -1)

    def without_ids(self) -> _Table:
        """The table once nothing has to be found any more."""
        return self._replace(ids=self.ids[:0].copy())

    def nbytes(self) -> int:
        """Bytes that the table holds in memory."""
        return sum(values.nbytes for values in self)


def _table(path: Path, wanted: np.ndarray, bad: BadLines, hash_text: bool = False) -> _Table:
    """One pass over a file of ``_id`` and ``text``: every line is checked, the ``wanted`` ids (hashes) are kept."""
    readable_file(path, "a BEIR folder with corpus.jsonl, queries.jsonl and qrels/")
    needed = np.sort(wanted)
    seen, lines = array("Q"), array("i")
    ids, offsets, lengths, hashes = array("Q"), array("q"), array("i"), array("Q")
    for line in read_lines(path, bad, f"reading {path.name}"):
        try:
            hashed = text_hash(text_of(line.row, "_id"))
            text = text_of(line.row, "text") if hash_text else document_text(line.row)
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        seen.append(hashed)
        lines.append(line.number)
        at = int(np.searchsorted(needed, np.uint64(hashed)))
        if at < len(needed) and int(needed[at]) == hashed:
            ids.append(hashed)
            offsets.append(line.offset)
            lengths.append(line.length)
            if hash_text:
                hashes.append(query_hash(text))
    _refuse_repeats(np.frombuffer(seen, np.uint64), np.frombuffer(lines, np.int32), path, bad)
    ids_n, first_n = np.unique(np.frombuffer(ids, np.uint64), return_index=True)
    hashes_n = np.frombuffer(hashes, np.uint64)
    return _Table(
        ids_n,
        np.frombuffer(offsets, np.int64)[first_n],
        np.frombuffer(lengths, np.int32)[first_n],
        hashes_n[first_n] if hash_text else hashes_n.copy(),
    )


def _refuse_repeats(ids_n: np.ndarray, lines_n: np.ndarray, path: Path, bad: BadLines) -> None:
    repeated_n = np.ones(len(ids_n), bool)
    repeated_n[np.unique(ids_n, return_index=True)[1]] = False
    for number in lines_n[repeated_n].tolist():
        bad.refuse(path, number, 'this "_id" was there before')


def _judge(run: Run, pairs_J: np.ndarray, grades_J: np.ndarray, threshold: float) -> tuple[np.ndarray, int]:
    """(flags uint8 [rows], number of candidates without a judgement)."""
    if not len(pairs_J):
        return np.zeros(len(run), np.uint8), len(run)
    at_N = np.minimum(np.searchsorted(pairs_J, run.pairs_N), len(pairs_J) - 1)
    judged_N = pairs_J[at_N] == run.pairs_N
    relevant_N = judged_N & (grades_J[at_N] >= threshold)
    return relevant_N.astype(np.uint8) * np.uint8(RELEVANT), int((~judged_N).sum())


def _read(file: FileRows, table: _Table, at: int) -> Row:
    return file.row(int(table.offsets[at]), int(table.lengths[at]))


def _qrels(folder: Path, split: str) -> Path:
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        there = sorted(found.stem for found in (folder / "qrels").glob("*.tsv"))
        remedy = f"choose qrels={' or qrels='.join(there)}" if there else "add the judgements of the folder there"
        raise UserError(f"qrels: {path} is not there (qrels={shown(split)}); {remedy}")
    return path
