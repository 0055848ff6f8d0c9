"""The ranked documents of a query, and the interface of their sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from r0.mining.collection import Query


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best documents for a query, best first, and the known scores of its positives."""

    documents: Sequence[str]  # [N] ids
    scores: Sequence[float]  # [N]
    positives: Mapping[str, float]  # id → score, also of documents beyond the N


class Source(Protocol):
    """Ranks the documents of a collection."""

    name: str

    def ranked(self, queries: Sequence[Query], depth: int) -> Iterator[Ranked]:
        """The best ``depth`` documents (or fewer) for each query, in order. One-time work (an index, embeddings) is done when
        this returns.
        """
        ...


def by_score(scores: Mapping[str, float], positives: Sequence[str]) -> Ranked:
    """Documents by decreasing score; equal scores keep the order of ``scores``."""
    best = sorted(((score, name) for name, score in scores.items()), key=lambda one: -one[0])
    known = {name: scores[name] for name in positives if name in scores}
    return Ranked([name for _, name in best], [score for score, _ in best], known)


def best_of(scores_D: np.ndarray, ids: Sequence[str], depth: int) -> tuple[list[str], list[float]]:
    """The ``depth`` best ids and their scores; equal scores by id, descending, also at the cutoff.

    Args:
        scores_D: float32 [documents].
        ids: [documents].
        depth: maximum number.
    """
    found = np.arange(len(scores_D))
    if len(found) > depth:
        found = np.flatnonzero(scores_D >= np.partition(scores_D, -depth)[-depth])
    best = sorted(((float(scores_D[at]), ids[at]) for at in found.tolist()), reverse=True)[:depth]
    return [name for _, name in best], [score for score, _ in best]
