"""Fuses a reranker's scores with those of the first stage."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from r0.rerank.protocol import Ranking


def fuse(ranking: Ranking, first_stage_scores: Sequence[float], weight: float) -> Ranking:
    """``(1 − weight)`` × the ranking's scores + ``weight`` × the first stage's, each scaled to 0…1 within the query.

    If all scores are equal they become 0.5. Ties in the sum keep the ranking's order. Weight 0 changes nothing.

    Args:
        first_stage_scores: [n], by first-stage position.

    Raises:
        ValueError: the number of scores and of candidates differ, a score is not finite, or the weight is outside 0…1.
    """
    if len(first_stage_scores) != len(ranking.order) or not all(map(isfinite, first_stage_scores)):
        raise ValueError(f"first_stage_scores must be {len(ranking.order)} finite numbers, not {list(first_stage_scores)}")
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight must be from 0 to 1, not {weight}")
    if weight == 0.0:
        return ranking
    own, other = _scaled(ranking.scores), _scaled(first_stage_scores)
    fused = [(1.0 - weight) * a + weight * b for a, b in zip(own, other, strict=True)]
    # Sort by rank first, so that the stable tie-break of of_scores keeps the ranking's order.
    by_rank = Ranking.of_scores([fused[position] for position in ranking.order])
    scores = [0.0] * len(fused)
    for rank, position in enumerate(ranking.order):
        scores[position] = by_rank.scores[rank]
    return Ranking(tuple(ranking.order[rank] for rank in by_rank.order), tuple(scores))


def _scaled(scores: Sequence[float]) -> list[float]:
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [(score - low) / (high - low) if high > low else 0.5 for score in scores]
