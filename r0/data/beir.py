"""A BEIR folder with a TREC run: each candidate of the run is one row.

Reads ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``. A candidate is relevant if its grade is at least the
threshold; candidates without a judgement count as not relevant and are counted. Memory: 9 bytes per candidate, 12 per
document and 20 per query of the run; texts stay in their files.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from r0.data.columns import DOCUMENT, QUERY
from r0.data.compressed import SUFFIXES
from r0.data.index import RELEVANT, UNJUDGED
from r0.data.jsonl import BadLine, BadLines, Line, Row, read_lines, readable_file, shown
from r0.data.readers import LabelRule
from r0.data.table import Texts, folder_file, index_table, row_id
from r0.data.trec import Judgements, Run, read_qrels
from r0.errors import UserError
from r0.records import PointwiseTask


class BeirCandidates(NamedTuple):
    """The candidates of a run that are in the BEIR folder."""

    query_at_N: np.ndarray  # int32 [N] index in ``queries``
    document_at_N: np.ndarray  # int32 [N] index in ``documents``
    query_ids_N: np.ndarray  # uint64 [N] hashes
    document_ids_N: np.ndarray  # uint64 [N] hashes
    grades_N: np.ndarray  # float64 [N], NaN if there is no judgement
    judgements: Judgements
    queries: Texts
    documents: Texts


def read_candidates(folder: Path, run: Path, qrels: str, rule: LabelRule, bad: BadLines, ordered: bool = False) -> BeirCandidates:
    """Read the candidates, with one pass over each file; ``ordered`` as in ``Run``.

    Raises:
        UserError: a file is missing or invalid, an id occurs twice, or a candidate's query or document is missing.
    """
    corpus, queries = folder_file(folder, "corpus"), folder_file(folder, "queries")
    found = Run(run, bad, ordered)
    judgements = read_qrels(find_qrels(qrels, folder), bad, *((rule.least, rule.most) if rule.declared else ()))
    query_table = index_table(queries, found.query_ids_Q, bad, hash_text=True)
    at_N = query_table.find(found.query_ids_Q)[found.queries_N]
    found.leave_out(at_N < 0, "query", QUERY, queries, bad)
    document_table = index_table(corpus, np.unique(found.documents_N), bad)
    at_N = document_table.find(found.documents_N)
    found.leave_out(at_N < 0, "document", DOCUMENT, corpus, bad)
    if not len(found):
        raise UserError(f"{run}: none of its candidates is in {folder}; give the run of this folder")
    query_ids_N = found.query_ids_Q[found.queries_N]
    return BeirCandidates(
        query_table.find(query_ids_N).astype(np.int32),
        document_table.find(found.documents_N).astype(np.int32),
        query_ids_N,
        found.documents_N,
        judgements.of(found.pairs_N),
        judgements,
        Texts(queries, query_table, queries=True),
        Texts(corpus, document_table),
    )


class BeirRows:
    """The candidates of ``run`` as tasks.

    Raises:
        UserError: as ``read_candidates``.
    """

    def __init__(self, folder: Path, run: Path, qrels: str, rule: LabelRule, skip_bad: bool = False):
        self.name = str(folder)
        self.bad = BadLines(skip_bad)
        found = read_candidates(folder, run, qrels, rule, self.bad)
        unjudged_N = np.isnan(found.grades_N)
        self.flags_N = np.where(unjudged_N, UNJUDGED, RELEVANT * (found.grades_N >= rule.threshold)).astype(np.uint8)
        self.unjudged = int(unjudged_N.sum())
        self._query_at_N, self._document_at_N = found.query_at_N, found.document_at_N
        self._queries, self._documents = found.queries, found.documents

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
        query, document = self._queries[int(self._query_at_N[row])], self._documents[int(self._document_at_N[row])]
        return PointwiseTask(row, query, document, int(self.flags_N[row]) & RELEVANT)

    def nbytes(self) -> int:
        """Memory used by the index, in bytes."""
        rows = self.flags_N.nbytes + self._document_at_N.nbytes + self._query_at_N.nbytes
        return rows + self._documents.nbytes() + self._queries.nbytes()


def find_qrels(qrels: str, folder: Path | None) -> Path:
    """The path of the judgements named by ``qrels``: a split of the folder (``qrels/<split>.tsv``), or a file.

    Raises:
        UserError: neither exists.
    """
    split = None if folder is None else folder / "qrels" / f"{qrels}.tsv"
    if split is not None:
        names = [split.with_name(split.name + suffix) for suffix in ("", *SUFFIXES)]
        names += [split.with_suffix(ending) for ending in (".jsonl", ".parquet")]
        if found := next((name for name in names if name.is_file()), None):
            return found
    if Path(qrels).is_file():
        return Path(qrels)
    if folder is None:
        raise UserError(f"qrels: {shown(qrels)} is not a file; give qrels=FILE with the judgements of the requests")
    there = sorted({found.name.partition(".")[0] for found in (folder / "qrels").glob("*.*")})
    remedy = f"choose qrels={' or qrels='.join(there)}" if there else "add the folder's judgements there"
    raise UserError(f"qrels: {split} does not exist (qrels={shown(qrels)}); {remedy}, or give a file")


def read_texts(
    path: Path, bad: BadLines, text: Callable[[Row], str], wanted: str, known: Container[str] | None = None
) -> Iterator[tuple[str, str, Line]]:
    """(id, text, line) of every line of a BEIR file.

    Args:
        path: the file.
        bad: takes bad lines.
        text: the text of a line.
        wanted: what to give instead of a file that cannot be used, in words.
        known: the ids that were given, where the caller keeps them; else they are kept here.

    Raises:
        UserError: the file cannot be used, has a bad line or an id twice (where those are not skipped), or no good line.
    """
    seen, empty = set[str](), True
    for line in read_lines(readable_file(path, wanted), bad, f"reading {path.name}"):
        try:
            name, content = row_id(line.row), text(line.row)
            if name in (seen if known is None else known):
                raise BadLine('this "_id" occurs twice')
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        if known is None:
            seen.add(name)
        empty = False
        yield name, content, line
    if empty:
        raise UserError(f"{path}: no lines in it; give {wanted}")
