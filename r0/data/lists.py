"""Lists to rank: windows of the first-stage order, shuffled, optionally mixed with negatives from other queries. One row is one
list.

* A query with at most ``candidates`` documents gives one list. Longer ones give ``lists_per_query`` windows: contiguous parts
  of the first-stage order that contain a relevant document, drawn by seed.
* ``random_negatives`` is the share of a list's irrelevant documents that are replaced by candidates of other queries, with
  grade 0. A candidate of the same query, or a document judged relevant for it, is never drawn.
* Lists without a relevant document and lists of fewer than two documents are dropped and counted.
* All draws depend only on (seed, query, place), so a row is the same whenever it is read. Rows with a thought to imitate are
  shown unchanged (complete, in their own order, without other negatives), because the thought refers to documents by number.

Array names end in Q for queries, N for candidates, R for rows.
"""

from __future__ import annotations

from array import array

import numpy as np

from r0.config.lists import ListSourceKeys
from r0.data.hashes import hash_key, shuffled
from r0.data.index import RELEVANT, THOUGHT
from r0.data.jsonl import BadLine, Row
from r0.data.pools import CandidatePool
from r0.data.readers import list_thought
from r0.errors import UserError
from r0.records import Form, ListLabel, ListwiseTask

_TRIES = 64  # attempts to draw a valid negative; after that the original document is kept


class ListRows:
    """The lists of a pool.

    Args:
        pool: queries and candidates. Lists with a thought have at most ``candidates`` documents (``ThoughtCheck``).
        keys: how lists are built.
        form: the answer form.
        threshold: grades of at least this are relevant.
        seed: of windows, negatives and shuffles.
        spread: also drop lists whose documents all have the same grade.

    Raises:
        UserError: no list is left, or negatives are requested but there is no other query.
    """

    def __init__(self, pool: CandidatePool, keys: ListSourceKeys, form: Form, threshold: float, seed: int, spread: bool = False):
        self.name, self.bad = pool.name, pool.bad
        self._pool, self._form, self._threshold, self._seed = pool, form, threshold, seed
        self._size, self._negatives = keys.candidates, keys.random_negatives
        self.unjudged = int(np.isnan(pool.grades_N).sum())
        if self._negatives and len(np.unique(pool.hashes_Q)) < 2:
            raise UserError(f"random_negatives: {pool.name} has only one query, so there are no others; use random_negatives=0")
        sizes_Q, grades_N, self.one_grade = np.diff(pool.starts_Q1), np.nan_to_num(pool.grades_N), 0
        before_N1 = np.append(0, np.cumsum(pool.grades_N >= threshold))  # NaN, without a judgement, is not relevant
        relevant_Q = np.diff(before_N1[pool.starts_Q1]) > 0
        self.too_short, self.no_relevant = int((sizes_Q < 2).sum()), int((~relevant_Q & (sizes_Q >= 2)).sum())
        queries, starts = array("i"), array("i")
        for query in np.flatnonzero(relevant_Q & (sizes_Q >= 2)).tolist():
            first, stop = pool.starts_Q1[query : query + 2].tolist()
            deep = stop - first > self._size
            windows = self._windows(query, before_N1[first : stop + 1]) if deep else [0]
            if spread:
                windows = [start for start in windows if np.ptp(grades_N[first + start : min(stop, first + start + self._size)])]
                self.one_grade += not windows
            windows = windows[: keys.lists_per_query]
            queries.extend([query] * len(windows))
            starts.extend(sorted(windows))
        if not queries:
            dropped = "; ".join(self.notes())
            raise UserError(f"data: all lists of {pool.name} were dropped: {dropped}; check relevance_threshold and judgements")
        self._query_R, self._start_R = np.frombuffer(queries, np.int32), np.frombuffer(starts, np.int32)
        self.flags_N = RELEVANT | THOUGHT * pool.thoughts_Q[self._query_R].astype(np.uint8)

    def __len__(self) -> int:
        return len(self._query_R)

    def notes(self) -> list[str]:
        """Messages about what was dropped."""
        parts = []
        if self.no_relevant:
            parts.append(f"{self.no_relevant} lists without a relevant document dropped")
        if self.one_grade:
            parts.append(f"{self.one_grade} lists with only one label dropped")
        if self.too_short:
            parts.append(f"{self.too_short} lists of fewer than 2 documents dropped")
        if self._pool.repeats:
            parts.append(f"{self._pool.repeats} repeated documents dropped from lists")
        return parts

    def grades(self) -> np.ndarray:
        """float64: the grades of all judged candidates."""
        return self._pool.grades_N[~np.isnan(self._pool.grades_N)]

    def query_hashes(self) -> np.ndarray:
        """uint64 [rows]."""
        return self._pool.hashes_Q[self._query_R]

    def nbytes(self) -> int:
        """Memory used by the index, in bytes."""
        return self._query_R.nbytes + self._start_R.nbytes + self.flags_N.nbytes + self._pool.nbytes()

    def task(self, row: int) -> ListwiseTask:
        """Read list ``row`` from the files.

        Raises:
            UserError: a file changed since it was indexed.
        """
        query, start = int(self._query_R[row]), int(self._start_R[row])
        first, stop = self._pool.starts_Q1[query : query + 2].tolist()
        candidates = list(range(first + start, stop))[: self._size]
        thought = bool(self.flags_N[row] & THOUGHT)
        grades = np.nan_to_num(self._pool.grades_N[candidates]).tolist()
        key = hash_key("list", self._seed, int(self._pool.hashes_Q[query]), start)
        if self._negatives and not thought:
            self._mix(query, candidates, grades, key)
        order = list(range(len(candidates))) if thought else shuffled(len(candidates), key)
        given = sorted(range(len(order)), key=order.__getitem__)
        label = ListLabel(tuple(grades[place] for place in order), tuple(given), self._threshold)
        together = sorted(candidates)  # so that candidates on one line of a file are read together
        texts = dict(zip(together, self._pool.texts(together), strict=True))
        documents = tuple(texts[candidates[place]] for place in order)
        think, answer = self._pool.thought(query) if thought else ("", "")
        return ListwiseTask(row, self._pool.query(query), documents, label, self._form, think, answer)

    def _windows(self, query: int, before_n1: np.ndarray) -> list[int]:
        """Possible window starts of a long query in its first-stage order, shuffled; ``before_n1`` is the cumulative count of
        relevant documents.
        """
        holding = np.flatnonzero(before_n1[self._size :] > before_n1[: -self._size])
        return [int(holding[i]) for i in shuffled(len(holding), hash_key("windows", self._seed, int(self._pool.hashes_Q[query])))]

    def _mix(self, query: int, candidates: list[int], grades: list[float], key: int) -> None:
        """Replace irrelevant candidates (pool indices, in first-stage order) by negatives from other queries."""
        pool = self._pool
        same = set(np.flatnonzero(pool.hashes_Q == pool.hashes_Q[query]).tolist())  # one query may have several lists
        taken: set[int] = set()
        for one in same:
            taken.update(pool.identities_N[pool.starts_Q1[one] : pool.starts_Q1[one + 1]].tolist())
        irrelevant = [place for place, grade in enumerate(grades) if grade < self._threshold]
        chosen = shuffled(len(irrelevant), hash_key("places", key))[: round(self._negatives * len(irrelevant))]
        for place in sorted(irrelevant[index] for index in chosen):
            for attempt in range(_TRIES):
                drawn = hash_key("negative", key, place, attempt) % len(pool.grades_N)
                identity = int(pool.identities_N[drawn])
                if identity in taken or any(pool.judged_relevant(one, drawn) for one in same):
                    continue
                taken.add(identity)
                candidates[place], grades[place] = drawn, 0.0
                break


class ThoughtCheck:
    """Refuses rows to imitate whose list is too long to be shown whole, or whose answer is not of the requested form."""

    def __init__(self, form: Form, most: int):
        self._form, self._most = form, most

    def __call__(self, row: Row, size: int) -> None:
        """Check a row of ``size`` hits.

        Raises:
            BadLine: the row is invalid.
        """
        from r0.text.answers import read_strict

        if size > self._most:
            remedy = "its thought refers to all of them, so it cannot be cut; raise candidates="
            raise BadLine(f"the list has {size} documents, more than candidates={self._most}, and {remedy}")
        answer = list_thought(row)[1]
        if answer and (wrong := read_strict(answer, self._form, size).violations):
            raise BadLine(f'"answer" is not an answer of the form {self._form} for {size} documents: {", ".join(sorted(wrong))}')
