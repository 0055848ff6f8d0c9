"""Queries and candidates from a JSONL file of pointwise rows, grouped rows or rank_llm requests.

* Each grouped row is a list, in the order of its hits. Pointwise rows form one list per query (normalized as for the split),
  in file order. Each request is a list, ordered by its scores (``r0.data.requests``); its grades come from judgements by id.
* A document that occurs again in the same list is dropped and counted, unless a thought refers to the hits by number.

Memory: 16 bytes per candidate (24 with identities), 12 per line of the file, 17 per query.
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
from r0.data.pools import CandidatePool
from r0.data.readers import DataKind, LabelRule, judged, list_thought
from r0.data.requests import request, unread_keys
from r0.data.row_keys import Keys
from r0.data.trec import read_qrels
from r0.records import PointwiseTask

CheckThought = Callable[[Row, int], None]  # arguments: grouped row with a thought, number of its hits; raises BadLine


class QueryLine(NamedTuple):
    """The content of a line: a query and some of its candidates."""

    query: str
    texts: Sequence[str]
    document_ids: Sequence[str]  # identify documents: ids, or the texts themselves
    grades: Sequence[float]
    query_id: str = ""  # requests only


def query_line(keys: Keys, kind: DataKind, rule: LabelRule) -> QueryLine:
    """Parse a line. The grades of requests are NaN, because their judgements are in another file.

    Raises:
        BadLine: the line is invalid.
    """
    if kind == DataKind.REQUESTS:
        found = request(keys.row)
        keys.left = unread_keys(keys.row)
        return QueryLine(found.query, found.texts, found.document_ids, [float("nan")] * len(found.texts), found.query_id)
    pairs = judged(keys, kind, rule)
    texts = [pair.document for pair in pairs]
    return QueryLine(pairs[0].query, texts, [text.strip() for text in texts], [pair.grade for pair in pairs])


class FilePool(CandidatePool):
    """The candidates of a JSONL file of pointwise rows, grouped rows or rank_llm requests.

    Args:
        path, kind: the file and its kind.
        rule: the allowed labels.
        qrels: judgements of requests.
        with_identities: keep document identities, which drawing negatives from other queries needs.
        check: validates grouped rows with a thought to imitate; None ignores thoughts.

    Raises:
        UserError: a file cannot be used, has a bad line (that is not skipped), or has no row.
    """

    def __init__(
        self,
        path: Path,
        kind: DataKind,
        rule: LabelRule,
        skip_bad: bool,
        qrels: str = "",
        with_identities: bool = False,
        check: CheckThought | None = None,
    ):
        self.name = str(path)
        self.bad = BadLines(skip_bad)
        self._kind, self._rule = kind, rule
        self._file = FileRows(readable_file(path, "a JSONL file of tasks"))
        self._last_read: tuple[int, Row, QueryLine] | None = None  # cache of the last line: a list's texts are often on one line
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
            if with_identities:
                self._query_ids_Q, self._positive = query_ids_Q, graded.positive()
        if with_identities:
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
        """int64: the candidates grouped by query, in file order, without repeated documents."""
        pairs_N = pair_hashes(queries_N.astype(np.uint64), identities_N)
        first_N = np.zeros(len(pairs_N), bool)
        first_N[np.unique(pairs_N, return_index=True)[1]] = True
        order_N = np.argsort(queries_N, kind="stable")
        return order_N[(first_N | self.thoughts_Q[queries_N])[order_N]]

    def _read(self, line: int) -> tuple[Row, QueryLine]:
        if self._last_read is None or self._last_read[0] != line:
            row = self._file.row(int(self._offsets_L[line]), int(self._lengths_L[line]))
            try:
                self._last_read = line, row, query_line(Keys(row), self._kind, self._rule)
            except BadLine:
                raise self._file.changed() from None
        return self._last_read[1:]


@dataclass(slots=True)
class _Index:
    """The index built by one pass over the file: arrays per query, per line and per candidate."""

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

    def add(self, found: QueryLine, offset: int, length: int, query: int) -> None:
        """Add a line's candidates for query number ``query``."""
        for place, (document_id, grade) in enumerate(zip(found.document_ids, found.grades, strict=True)):
            self.queries.append(query)
            self.lines.append(len(self.offsets))
            self.places.append(place)
            self.grades.append(grade)
            self.identities.append(text_hash(document_id))
        self.offsets.append(offset)
        self.lengths.append(length)


def _index(path: Path, kind: DataKind, rule: LabelRule, bad: BadLines, check: CheckThought | None) -> _Index:
    """Index the file in one pass.

    Raises:
        UserError: a bad line (that is not skipped), or no row.
    """
    index, ids, numbers = _Index(), set[str](), dict[int, int]()
    for line in read_lines(path, bad, f"reading {path.name}"):
        try:
            keys = Keys(line.row)
            found = query_line(keys, kind, rule)
            thought = check is not None and bool(list_thought(line.row)[0])
            if check and thought:
                check(line.row, len(found.texts))
            if kind == DataKind.REQUESTS and found.query_id in ids:
                raise BadLine(f"the query {shown(found.query_id)} occurs twice")
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        keys.tell(bad, path)
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
    """rank_llm requests as pointwise tasks: each candidate is one row.

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
        """Memory used by the index, in bytes."""
        return self.flags_N.nbytes + self._pool.nbytes()
