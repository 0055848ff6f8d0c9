"""A BEIR folder with a TREC run: every candidate of the run is one row.

``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``. Relevant means a grade of at least the threshold; a candidate without
a judgement is not relevant, and counted. A candidate costs 9 bytes in memory, each document and query of the run 12 and 20 more:
texts stay in their files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from r0.data.index import RELEVANT
from r0.data.jsonl import BadLines, shown
from r0.data.readers import LabelRule
from r0.data.table import Texts, index_table
from r0.data.trec import Run, read_qrels
from r0.errors import UserError
from r0.records import PointwiseTask

DOCUMENT_COLUMN, QUERY_COLUMN = 2, 0  # of a run's lines


class BeirCandidates:
    """The candidates of ``run`` that are in ``folder``, with their grades; texts are read on demand.

    ``queries_N`` and ``documents_N`` [rows] int32 are places in the tables of texts; ``grades_N`` [rows] float32, NaN where there
    is no judgement.

    Raises:
        UserError: a file is missing or bad, an id is twice, or a candidate's query or document is not there.
    """

    def __init__(self, folder: Path, run: Path, qrels: str, rule: LabelRule, bad: BadLines, ordered: bool = False):
        corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
        candidates = Run(run, bad, ordered)
        judgements = read_qrels(find_qrels(qrels, folder), bad, *((rule.least, rule.most) if rule.declared else ()))
        query_table = index_table(queries, candidates.query_ids_Q, bad, hash_text=True)
        at_N = query_table.find(candidates.query_ids_Q)[candidates.queries_N]
        candidates.leave_out(at_N < 0, "query", QUERY_COLUMN, queries, bad)
        document_table = index_table(corpus, np.unique(candidates.documents_N), bad)
        at_N = document_table.find(candidates.documents_N)
        candidates.leave_out(at_N < 0, "document", DOCUMENT_COLUMN, corpus, bad)
        if not len(candidates):
            raise UserError(f"{run}: none of its candidates is in {folder}; give the run that belongs to the folder")
        self.documents_N = document_table.find(candidates.documents_N).astype(np.int32)
        self.queries_N = query_table.find(candidates.query_ids_Q)[candidates.queries_N].astype(np.int32)
        self.grades_N = grades_of(candidates.pairs_N, *judgements)
        self.documents, self.queries = Texts(corpus, document_table), Texts(queries, query_table, queries=True)

    def nbytes(self) -> int:
        """Bytes held in memory, without the grades."""
        return self.documents_N.nbytes + self.queries_N.nbytes + self.documents.nbytes() + self.queries.nbytes()


class BeirRows:
    """The candidates of ``run`` as tasks.

    Raises:
        UserError: as ``BeirCandidates``.
    """

    def __init__(self, folder: Path, run: Path, qrels: str, rule: LabelRule, skip_bad: bool = False):
        self.name = str(folder)
        self.bad = BadLines(skip_bad)
        self._found = BeirCandidates(folder, run, qrels, rule, self.bad)
        grades_N = self._found.grades_N
        self.flags_N = (grades_N >= rule.threshold).astype(np.uint8) * np.uint8(RELEVANT)
        self.unjudged = int(np.isnan(grades_N).sum())
        self._found.grades_N = grades_N[:0].copy()

    def __len__(self) -> int:
        return len(self.flags_N)

    def query_hashes(self) -> np.ndarray:
        """uint64 [rows]."""
        return self._found.queries.hashes[self._found.queries_N]

    def task(self, row: int) -> PointwiseTask:
        """Read candidate ``row`` from the files.

        Raises:
            UserError: a file changed since it was indexed.
        """
        query = self._found.queries[int(self._found.queries_N[row])]
        document = self._found.documents[int(self._found.documents_N[row])]
        return PointwiseTask(row, query, document, int(self.flags_N[row]) & RELEVANT)

    def nbytes(self) -> int:
        """Bytes that the index holds in memory."""
        return self.flags_N.nbytes + self._found.nbytes()


def grades_of(pairs_N: np.ndarray, judged_J: np.ndarray, grades_J: np.ndarray) -> np.ndarray:
    """float32 [N]: the grade of each pair (hashes, uint64), NaN without a judgement; ``judged_J`` is sorted."""
    if not len(judged_J):
        return np.full(len(pairs_N), np.nan, np.float32)
    at_N = np.minimum(np.searchsorted(judged_J, pairs_N), len(judged_J) - 1)
    return np.where(judged_J[at_N] == pairs_N, grades_J[at_N], np.float32(np.nan))


def find_qrels(qrels: str, folder: Path | None) -> Path:
    """The judgements that ``qrels`` names: a split of the folder (``qrels/<split>.tsv``), or a file.

    Raises:
        UserError: neither.
    """
    split = None if folder is None else folder / "qrels" / f"{qrels}.tsv"
    if split is not None and split.is_file():
        return split
    if Path(qrels).is_file():
        return Path(qrels)
    if folder is None:
        raise UserError(f"qrels: {shown(qrels)} is no file; give qrels=FILE with the judgements of the requests")
    there = sorted(found.stem for found in (folder / "qrels").glob("*.tsv"))
    remedy = f"choose qrels={' or qrels='.join(there)}" if there else "add the judgements of the folder there"
    raise UserError(f"qrels: {split} is not there (qrels={shown(qrels)}); {remedy}, or give a file")
