"""First-stage candidates with their texts but without judgements: the input of reranking.

The input is a BEIR folder with a TREC run, or a JSONL file of rank_llm requests. Ids are strings here; texts stay in their
files and are read on demand.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from r0.data.columns import DOCUMENT, QUERY, read_columns, run_columns
from r0.data.hashes import text_hash
from r0.data.index import FileRows
from r0.data.jsonl import BadLine, BadLines, read_lines, readable_file, shown
from r0.data.requests import Request, request, unread_keys
from r0.data.runfile import given_order, read_run
from r0.data.table import Texts, folder_file, index_table
from r0.errors import UserError


class CandidateLists(Protocol):
    """Queries with their candidates, in the order of the run. Each query has at least one candidate."""

    name: str
    bad: BadLines  # the lines skipped

    def __len__(self) -> int: ...

    def query_id(self, index: int) -> str:
        """Id of query ``index``."""
        ...

    def query(self, index: int) -> str:
        """Text of query ``index``."""
        ...

    def document_ids(self, index: int) -> tuple[str, ...]:
        """[N] ids of the query's candidates, in trec_eval's order of the run."""
        ...

    def scores(self, index: int) -> tuple[float, ...]:
        """[N] first-stage scores in the same order; N down to 1 if the input has none."""
        ...

    def document(self, index: int, place: int) -> str:
        """Text of candidate number ``place`` of query ``index``, read from its file.

        Raises:
            UserError: the file changed since it was indexed.
        """
        ...


def open_candidates(data: Path, run: Path | None = None, skip_bad: bool = False) -> CandidateLists:
    """Open the candidates named by ``data`` and ``run``.

    Args:
        data: BEIR folder, or a file of rank_llm requests.
        run: TREC run with the candidates (BEIR folders only).
        skip_bad: skip, count and list bad lines.

    Raises:
        UserError: a file is missing or invalid, an id is unknown or occurs twice, or no candidate is left.
    """
    check_candidates(data, run)
    return RequestLists(data, skip_bad) if run is None else BeirLists(data, run, skip_bad)


def check_candidates(data: Path, run: Path | None = None) -> None:
    """Refuse what cannot be opened, as far as the names tell.

    Raises:
        UserError: a file is missing, or ``run`` does not go with the data.
    """
    if data.is_dir():
        if not folder_file(data, "corpus").is_file():
            raise UserError(
                f"data: {data} is a directory without corpus.jsonl; give a BEIR folder or a JSONL of rank_llm requests"
            )
        if run is None:
            raise UserError(f"run: the BEIR folder {data} needs a TREC run with the candidates of each query; give run=FILE")
        if not run.is_file():
            raise UserError(f"run: {run}: no such file; give a TREC run with the candidates of each query")
    elif not data.exists():
        raise UserError(f"data: {data}: no such file or folder; give a BEIR folder or a JSONL file of rank_llm requests")
    elif run is not None:
        raise UserError(f"run: {run} lists candidates of a BEIR folder, but data={data} is not one; remove run")


class BeirLists:
    """The candidates of a run, with texts from a BEIR folder."""

    def __init__(self, folder: Path, run: Path, skip_bad: bool):
        self.name = str(folder)
        self.bad = BadLines(skip_bad)
        queries, corpus = folder_file(folder, "queries"), folder_file(folder, "corpus")
        candidates = read_run(run, self.bad)
        query_table = index_table(queries, _hashes(candidates), self.bad, hash_text=True)
        drop_unknown(candidates, set(query_table.ids.tolist()), QUERY, run, queries, self.bad)
        wanted = np.unique(_hashes(document for documents in candidates.values() for document in documents))
        table = index_table(corpus, wanted, self.bad)
        drop_unknown(candidates, set(table.ids.tolist()), DOCUMENT, run, corpus, self.bad)
        if not candidates:
            raise UserError(f"{run}: none of its candidates is in {folder}; give the run of this folder")
        self._query_ids = list(candidates)
        self._document_ids = [tuple(given_order(scores)) for scores in candidates.values()]
        orders = zip(self._document_ids, candidates.values(), strict=True)
        self._scores = [tuple(scores[document] for document in order) for order, scores in orders]
        self._query_at, self._table = query_table.find(_hashes(self._query_ids)), table
        self._queries = Texts(queries, query_table, queries=True)
        self._documents = Texts(corpus, table)

    def __len__(self) -> int:
        return len(self._query_ids)

    def query_id(self, index: int) -> str:
        """Id of query ``index``."""
        return self._query_ids[index]

    def query(self, index: int) -> str:
        """Text of query ``index``."""
        return self._queries[int(self._query_at[index])]

    def document_ids(self, index: int) -> tuple[str, ...]:
        """[N] ids in trec_eval's order."""
        return self._document_ids[index]

    def scores(self, index: int) -> tuple[float, ...]:
        """[N] scores in trec_eval's order."""
        return self._scores[index]

    def document(self, index: int, place: int) -> str:
        """Text of candidate number ``place`` of query ``index``."""
        return self._documents[int(self._table.find(_hashes([self._document_ids[index][place]]))[0])]


class RequestLists:
    """The candidates of rank_llm requests. Caches the last request, since its other documents are likely to be read next."""

    def __init__(self, path: Path, skip_bad: bool):
        self.name = str(path)
        self.bad = BadLines(skip_bad)
        self._file = FileRows(readable_file(path, "a JSONL file of rank_llm requests"))
        self._offsets, self._lengths = array("q"), array("i")
        found: dict[str, None] = {}
        for line in read_lines(path, self.bad, f"reading {path.name}"):
            try:
                query_id = sys.intern(request(line.row).query_id)
                if query_id in found:
                    raise BadLine(f"the query {shown(query_id)} occurs twice")
            except BadLine as error:
                self.bad.refuse(path, line.number, str(error))
                continue
            found[query_id] = None
            self.bad.unread(path, unread_keys(line.row))
            self._offsets.append(line.offset)
            self._lengths.append(line.length)
        if not found:
            raise UserError(f"{path}: contains no requests; give a JSONL file of rank_llm requests or a BEIR folder")
        self._query_ids = list(found)
        self._last_read: tuple[int, Request] | None = None

    def __len__(self) -> int:
        return len(self._query_ids)

    def query_id(self, index: int) -> str:
        """Id of query ``index``."""
        return self._query_ids[index]

    def query(self, index: int) -> str:
        """Text of query ``index``."""
        return self._request(index).query

    def document_ids(self, index: int) -> tuple[str, ...]:
        """[N] ids in trec_eval's order."""
        return self._request(index).document_ids

    def scores(self, index: int) -> tuple[float, ...]:
        """[N] scores in trec_eval's order."""
        return self._request(index).scores

    def document(self, index: int, place: int) -> str:
        """Text of candidate number ``place`` of query ``index``."""
        return self._request(index).texts[place]

    def _request(self, index: int) -> Request:
        if self._last_read is None or self._last_read[0] != index:
            try:
                self._last_read = index, request(self._file.row(self._offsets[index], self._lengths[index]))
            except BadLine:
                raise self._file.changed() from None
        return self._last_read[1]


def _hashes(ids: Iterable[str]) -> np.ndarray:
    return np.fromiter(map(text_hash, ids), np.uint64)


def drop_unknown(
    candidates: dict[str, dict[str, float]], known: set[int], column: int, run: Path, where: Path, bad: BadLines
) -> None:
    """Drop the candidates whose id in ``column`` of the run is not among the ``known`` hashes, and lists that become empty.

    Raises:
        UserError: there are such candidates, and bad lines are not skipped.
    """
    ids = set(candidates) if column == QUERY else {i for documents in candidates.values() for i in documents}
    unknown = {name for name in ids if text_hash(name) not in known}
    if not unknown:
        return
    what = "query" if column == QUERY else "document"
    for number, columns in read_columns(run, BadLines(skip=True), run_columns):
        if columns[column] in unknown:
            bad.refuse(run, number, f"the {what} {shown(columns[column])} is not in {where}")
    for query in list(candidates):
        if column == DOCUMENT:
            candidates[query] = {i: score for i, score in candidates[query].items() if i not in unknown}
        if query in unknown or not candidates[query]:
            del candidates[query]
