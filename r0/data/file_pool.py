"""The queries and candidates of a JSONL file of pointwise rows, grouped rows or rank_llm requests.

* Grouped rows: a list each, in the order of the hits. Pointwise rows: a list for each query (as the split sees it), in the order
  of the file. Requests: a list each, in the order of their scores (``r0.data.requests``), graded by judgements of their ids.
* A document that was there before in the same list is left out and counted, unless a thought numbers the hits.

A candidate costs 16 bytes in memory (8 more where documents have to be told apart), a line of the file 12, a query 17.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from r0.data.beir import find_qrels
from r0.data.hashes import pair_hashes, query_hash, text_hash
from r0.data.index import RELEVANT, UNJUDGED, FileRows, no_rows
from r0.data.jsonl import BadLine, BadLines, Row, read_lines, readable_file, shown
from r0.data.pools import Pool
from r0.data.readers import DataKind, LabelRule, judged, list_thought
from r0.data.requests import request
from r0.data.trec import read_qrels
from r0.records import PointwiseTask

CheckThought = Callable[[Row, int], None]  # (grouped row with a thought, number of its hits); raises BadLine


class Listed(NamedTuple):
    """What a line holds: a query and the next of its candidates."""

    query: str
    texts: Sequence[str]
    document_ids: Sequence[str]  # what tells documents apart: ids, or the texts
    grades: Sequence[float]
    query_id: str = ""  # requests only


def listed(row: Row, kind: DataKind, rule: LabelRule) -> Listed:
    """Read a line; grades of requests are NaN, for their judgements are elsewhere.

    Raises:
        BadLine: it is refused.
    """
    if kind == DataKind.REQUESTS:
        found = request(row)
        return Listed(found.query, found.texts, found.document_ids, [float("nan")] * len(found.texts), found.query_id)
    pairs = judged(row, kind, rule)
    texts = [pair.document for pair in pairs]
    return Listed(pairs[0].query, texts, [text.strip() for text in texts], [pair.grade for pair in pairs])


class FilePool(Pool):
    """The candidates of a JSONL file of pointwise rows, grouped rows or rank_llm requests.

    Args:
        path, kind: the file and what it holds.
        rule: which labels are allowed.
        qrels: judgements of requests.
        apart: keep what tells documents apart.
        check: look for thoughts to imitate in grouped rows, and check them by this.

    Raises:
        UserError: a file cannot be used, has a bad line (where those are not skipped), or has no row.
    """

    def __init__(
        self,
        path: Path,
        kind: DataKind,
        rule: LabelRule,
        skip_bad: bool,
        qrels: str = "",
        apart: bool = False,
        check: CheckThought | None = None,
    ):
        self.name = str(path)
        self.bad = BadLines(skip_bad)
        self._kind, self._rule = kind, rule
        self._file = FileRows(readable_file(path, "a JSONL file of tasks"))
        self._kept: tuple[int, Row, Listed] | None = None  # what was read last: a list's texts are likely on one line
        judgements = find_qrels(qrels, None) if kind == DataKind.REQUESTS else None
        index = _index(path, kind, rule, self.bad, check)
        self.hashes_Q, self.thoughts_Q = np.frombuffer(index.hashes, np.uint64), np.frombuffer(index.thoughts, np.int8) > 0
        self._offsets_L, self._lengths_L = np.frombuffer(index.offsets, np.int64), np.frombuffer(index.lengths, np.int32)
        queries_N, identities_N = np.frombuffer(index.queries, np.int32), np.frombuffer(index.identities, np.uint64)
        kept_N = self._kept_in_order(queries_N, identities_N)
        self.repeats = len(queries_N) - len(kept_N)
        queries_N, identities_N = queries_N[kept_N], identities_N[kept_N]
        self.starts_Q1 = np.searchsorted(queries_N, np.arange(len(self.hashes_Q) + 1))
        self._lines_N = np.frombuffer(index.lines, np.int32)[kept_N]
        self._places_N = np.frombuffer(index.places, np.int32)[kept_N]
        self.grades_N = np.frombuffer(index.grades, np.float64)[kept_N]
        if judgements is not None:
            graded = read_qrels(judgements, self.bad, *((rule.least, rule.most) if rule.declared else ()))
            query_ids_Q = np.frombuffer(index.query_ids, np.uint64)
            self.grades_N = graded.of(pair_hashes(query_ids_Q[queries_N], identities_N))
            if apart:
                self._query_ids_Q, self._positive = query_ids_Q, graded.positive()
        if apart:
            self.identities_N = identities_N

    def query(self, query: int) -> str:
        """Text of a query."""
        text = self._read(int(self._lines_N[self.starts_Q1[query]]))[1].query
        if query_hash(text) != int(self.hashes_Q[query]):
            raise self._file.changed()
        return text

    def texts(self, candidates: Sequence[int]) -> list[str]:
        """Texts of candidates."""
        try:
            return [self._read(int(self._lines_N[at]))[1].texts[self._places_N[at]] for at in candidates]
        except IndexError:
            raise self._file.changed() from None

    def thought(self, query: int) -> tuple[str, str]:
        """(thought, answer) to imitate."""
        return list_thought(self._read(int(self._lines_N[self.starts_Q1[query]]))[0])

    def _kept_in_order(self, queries_N: np.ndarray, identities_N: np.ndarray) -> np.ndarray:
        """int64: the candidates query by query, in the order of the file, without those that were there before."""
        pairs_N = pair_hashes(queries_N.astype(np.uint64), identities_N)
        first_N = np.zeros(len(pairs_N), bool)
        first_N[np.unique(pairs_N, return_index=True)[1]] = True
        order_N = np.argsort(queries_N, kind="stable")
        return order_N[(first_N | self.thoughts_Q[queries_N])[order_N]]

    def _read(self, line: int) -> tuple[Row, Listed]:
        if self._kept is None or self._kept[0] != line:
            row = self._file.row(int(self._offsets_L[line]), int(self._lengths_L[line]))
            try:
                self._kept = line, row, listed(row, self._kind, self._rule)
            except BadLine:
                raise self._file.changed() from None
        return self._kept[1:]


@dataclass(slots=True)
class _Index:
    """What a pass over the file keeps: of each query, of each line, of each candidate."""

    hashes: array[int] = field(default_factory=lambda: array("Q"))
    thoughts: array[int] = field(default_factory=lambda: array("b"))
    query_ids: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("i"))
    queries: array[int] = field(default_factory=lambda: array("i"))
    lines: array[int] = field(default_factory=lambda: array("i"))
    places: array[int] = field(default_factory=lambda: array("i"))
    grades: array[float] = field(default_factory=lambda: array("d"))
    identities: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, found: Listed, offset: int, length: int, query: int) -> None:
        """Take a line's candidates for query number ``query``."""
        for place, (document_id, grade) in enumerate(zip(found.document_ids, found.grades, strict=True)):
            self.queries.append(query)
            self.lines.append(len(self.offsets))
            self.places.append(place)
            self.grades.append(grade)
            self.identities.append(text_hash(document_id))
        self.offsets.append(offset)
        self.lengths.append(length)


def _index(path: Path, kind: DataKind, rule: LabelRule, bad: BadLines, check: CheckThought | None) -> _Index:
    """One pass over the file.

    Raises:
        UserError: a bad line (where those are not skipped), or no row.
    """
    index, ids, numbers = _Index(), set[str](), dict[int, int]()
    for line in read_lines(path, bad, f"reading {path.name}"):
        try:
            found = listed(line.row, kind, rule)
            thought = check is not None and bool(list_thought(line.row)[0])
            if check and thought:
                check(line.row, len(found.texts))
            if kind == DataKind.REQUESTS and found.query_id in ids:
                raise BadLine(f"the query {shown(found.query_id)} was there before")
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        hashed, number = query_hash(found.query), len(index.hashes)
        if kind == DataKind.POINTWISE:
            number = numbers.setdefault(hashed, number)
        if number == len(index.hashes):
            index.hashes.append(hashed)
            index.thoughts.append(thought)
            index.query_ids.append(text_hash(found.query_id))
            ids.add(found.query_id)
        index.add(found, line.offset, line.length, number)
    if not index.hashes:
        raise no_rows(path, bad)
    return index


class RequestRows:
    """Rank_llm requests as pointwise tasks: every candidate is one row.

    Raises:
        UserError: as ``FilePool``.
    """

    def __init__(self, path: Path, rule: LabelRule, qrels: str, skip_bad: bool = False):
        self._pool = FilePool(path, DataKind.REQUESTS, rule, skip_bad, qrels)
        self.name, self.bad = self._pool.name, self._pool.bad
        unjudged_N = np.isnan(self._pool.grades_N)
        self.flags_N = np.where(unjudged_N, UNJUDGED, RELEVANT * (self._pool.grades_N >= rule.threshold)).astype(np.uint8)
        self.unjudged = int(unjudged_N.sum())

    def __len__(self) -> int:
        return len(self.flags_N)

    def query_hashes(self) -> np.ndarray:
        """uint64 [rows]."""
        return np.repeat(self._pool.hashes_Q, np.diff(self._pool.starts_Q1))

    def task(self, row: int) -> PointwiseTask:
        """Read candidate ``row`` from the file.

        Raises:
            UserError: the file changed since it was indexed.
        """
        query, label = self._pool.query(self._pool.query_of(row)), int(self.flags_N[row]) & RELEVANT
        return PointwiseTask(row, query, self._pool.texts([row])[0], label)

    def nbytes(self) -> int:
        """Bytes that the index holds in memory."""
        return self.flags_N.nbytes + self._pool.nbytes()
