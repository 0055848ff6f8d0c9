"""Queries with their candidates in first-stage order, without texts in memory; here from BEIR folders.

Candidates are numbered consecutively, query by query. Memory: 12 bytes per candidate, 12 per document and 41 per query of the
run, and 8 more per candidate where negatives are drawn from other queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r0.data.beir import read_candidates
from r0.data.hashes import pair_hash
from r0.data.jsonl import BadLines
from r0.data.readers import LabelRule
from r0.data.trec import Judgements

_NONE_Q = np.zeros(0, np.uint64)


class CandidatePool(ABC):
    """Q queries and their N candidates.

    ``starts_Q1`` [Q + 1] int64: query q has the candidates ``starts_Q1[q]`` to ``starts_Q1[q + 1] − 1``, best first.
    ``hashes_Q`` uint64: hash of the normalized query. ``thoughts_Q`` bool: whether there is a thought to imitate.
    ``grades_N`` float64: NaN without a judgement. ``identities_N`` uint64: equal for the same document; empty unless
    identities were requested.
    """

    name: str
    bad: BadLines
    starts_Q1: np.ndarray
    hashes_Q: np.ndarray
    thoughts_Q: np.ndarray
    grades_N: np.ndarray
    identities_N = _NONE_Q
    repeats = 0  # documents dropped because they occur earlier in the same list
    _query_ids_Q = _NONE_Q  # hashes, if there are judgements by id
    _positive = Judgements(_NONE_Q, np.zeros(0))

    @abstractmethod
    def query(self, query: int) -> str:
        """Text of a query."""

    @abstractmethod
    def texts(self, candidates: Sequence[int]) -> list[str]:
        """Texts of candidates.

        Raises:
            UserError: a file changed since it was indexed.
        """

    def thought(self, query: int) -> tuple[str, str]:
        """(thought, answer) to imitate, for a query with a thought."""
        raise KeyError(query)

    def judged_relevant(self, query: int, candidate: int) -> bool:
        """Whether the document of ``candidate`` (possibly of another query) has a grade above 0 for ``query``."""
        if not len(self._positive.pairs):
            return False
        pair = pair_hash(int(self._query_ids_Q[query]), int(self.identities_N[candidate]))
        at = int(np.searchsorted(self._positive.pairs, np.uint64(pair)))
        return at < len(self._positive.pairs) and int(self._positive.pairs[at]) == pair

    def query_of(self, candidate: int) -> int:
        """The query of a candidate."""
        return int(np.searchsorted(self.starts_Q1, candidate, "right")) - 1

    def nbytes(self) -> int:
        """Memory used by the arrays, in bytes."""
        own = sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))
        return own + sum(values.nbytes for values in self._positive)


class BeirPool(CandidatePool):
    """The candidates of a run, from a BEIR folder.

    Raises:
        UserError: as ``read_candidates``.
    """

    def __init__(self, folder: Path, run: Path, qrels: str, rule: LabelRule, skip_bad: bool, with_identities: bool = False):
        self.name = str(folder)
        self.bad = BadLines(skip_bad)
        found = read_candidates(folder, run, qrels, rule, self.bad, ordered=True)
        first_Q = np.flatnonzero(np.diff(found.query_at_N, prepend=-1))
        self.starts_Q1 = np.append(first_Q, len(found.query_at_N))
        self._query_at_Q, self._document_at_N = found.query_at_N[first_Q], found.document_at_N
        self._queries, self._documents = found.queries, found.documents
        self.hashes_Q, self.grades_N = found.queries.hashes[self._query_at_Q], found.grades_N
        self.thoughts_Q = np.zeros(len(first_Q), bool)
        if with_identities:
            self.identities_N, self._query_ids_Q = found.document_ids_N, found.query_ids_N[first_Q]
            self._positive = found.judgements.positive()

    def query(self, query: int) -> str:
        """Text of a query."""
        return self._queries[int(self._query_at_Q[query])]

    def texts(self, candidates: Sequence[int]) -> list[str]:
        """Texts of candidates."""
        return [self._documents[int(self._document_at_N[candidate])] for candidate in candidates]

    def nbytes(self) -> int:
        """Memory used by the arrays, in bytes."""
        return super().nbytes() + self._queries.nbytes() + self._documents.nbytes()
