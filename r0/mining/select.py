"""Selects the negatives of a query from its ranking: a pure function of the ranking, the judgements and the seed.

A negative is never judged relevant, never has the text of a relevant document under another id, is not excluded for the
query, does not have its id (``r0.evaluation.identical_ids``), and has text; no two negatives of a query have the same text.
With a margin its score s is below that of the query's lowest positive p: s <= p - margin and s <= p - relative_margin * |p|.
(sentence-transformers' ``mine_hard_negatives`` applies this to each pair of a query and one positive; here all positives of a
query share its negatives, so the lowest positive decides.)
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from r0.config import MineConfig
from r0.data.hashes import Shuffle, hash_key, shuffled
from r0.mining.collection import Collection, Query
from r0.mining.ranked import Ranked
from r0.mining.texts import BLANK


class Dropped(StrEnum):
    """Why a document in the ranks is not a negative."""

    POSITIVE = "positives"
    SAME_TEXT = "texts of positives"
    MARGIN = "within the margin"
    REPEATED = "repeated texts"
    EXCLUDED = "excluded"
    IDENTICAL = "with the id of the query"
    BLANK = "without text"


@dataclass(frozen=True, slots=True)
class Hit:
    """A document in a query's group."""

    id: str
    relevant: bool
    rank: int | None = None  # from 1; None: beyond the depth of the ranking, or drawn from the corpus
    score: float | None = None  # None: unknown
    drawn: bool = False  # drawn from the whole corpus


@dataclass
class Selected:
    """The group of a query: hits in ranking order, then positives beyond the ranking, then negatives drawn from the corpus."""

    query: Query
    hits: list[Hit] = field(default_factory=list)
    dropped: Counter[Dropped] = field(default_factory=Counter)

    @property
    def positives(self) -> list[Hit]:
        """The relevant hits."""
        return [hit for hit in self.hits if hit.relevant]

    @property
    def negatives(self) -> list[Hit]:
        """The other hits."""
        return [hit for hit in self.hits if not hit.relevant]


class Selection:
    """Selects negatives as configured."""

    def __init__(self, config: MineConfig, collection: Collection):
        self._config, self._documents, self._collection = config, collection.documents, collection

    def select(self, query: Query, ranked: Ranked, epoch: int) -> Selected:
        """The group of a query in an epoch (from 1)."""
        found, limit = Selected(query), self._limit(ranked)
        ranks = {name: rank for rank, name in enumerate(ranked.documents, 1)}
        eligible = self._eligible(query, ranked, epoch, limit, found.dropped)
        if self._config.sampling == "random":
            order = shuffled(len(eligible), hash_key(self._config.seed, "mine", epoch, query.id))
            eligible = [eligible[place] for place in order]
        hard = eligible[: self._config.hard]
        positives = [Hit(name, True, ranks.get(name), ranked.positives.get(name)) for name in query.positives]
        taken = [*positives, *(Hit(ranked.documents[rank - 1], False, rank, ranked.scores[rank - 1]) for rank in hard)]
        found.hits = sorted(taken, key=lambda hit: math.inf if hit.rank is None else hit.rank)
        within = {name for name, score in zip(ranked.documents, ranked.scores, strict=True) if score > limit}
        found.hits += self._drawn(query, within, {self._documents.same(hit.id) for hit in taken}, epoch)
        return found

    def _limit(self, ranked: Ranked) -> float:
        """The highest allowed score of a negative. With a margin but no scored positive, no negative is allowed."""
        margin, relative = self._config.margin, self._config.relative_margin
        if margin is None and relative is None:
            return math.inf
        lowest = min(ranked.positives.values(), default=-math.inf)
        return lowest - max(margin or 0.0, (relative or 0.0) * abs(lowest)) if math.isfinite(lowest) else lowest

    def _eligible(self, query: Query, ranked: Ranked, epoch: int, limit: float, dropped: Counter[Dropped]) -> list[int]:
        """The ranks, within the epoch's range, of documents that can be negatives."""
        first, last = self._config.epochs[epoch - 1]
        found, seen = [], set()
        for rank in range(first, min(last, len(ranked.documents)) + 1):
            name = ranked.documents[rank - 1]
            same = self._documents.same(name)
            reason = self._reason(query, name, same)
            if reason is None and ranked.scores[rank - 1] > limit:
                reason = Dropped.MARGIN
            if reason is None and same in seen:
                reason = Dropped.REPEATED
            if reason is None:
                found.append(rank)
                seen.add(same)
            else:
                dropped[reason] += 1
        return found

    def _reason(self, query: Query, name: str, same: int) -> Dropped | None:
        """Why a document cannot be a negative of the query, regardless of its score; None if it can."""
        if same in self._collection.relevant(query):
            return Dropped.POSITIVE if name in query.positives else Dropped.SAME_TEXT
        if name in query.excluded:
            return Dropped.EXCLUDED
        if name == query.id and self._collection.drops_identical:
            return Dropped.IDENTICAL
        return Dropped.BLANK if same == BLANK else None

    def _drawn(self, query: Query, within: set[str], seen: set[int], epoch: int) -> list[Hit]:
        """Negatives drawn uniformly from the whole corpus, except documents known to be ``within`` the margin."""
        found: list[Hit] = []
        order = Shuffle(len(self._documents), hash_key(self._config.seed, "corpus", epoch, query.id))
        for at in range(len(order)):
            if len(found) == self._config.drawn:
                break
            name = self._documents.ids[order[at]]
            same = self._documents.same(name)
            if same not in seen and name not in within and self._reason(query, name, same) is None:
                found.append(Hit(name, False, drawn=True))
                seen.add(same)
        return found
