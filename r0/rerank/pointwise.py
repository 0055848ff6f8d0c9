"""Every candidate by itself: the probability that it answers the query."""

from __future__ import annotations

from r0.records import Form
from r0.rerank.asks import Ask, Method, Ranking


def pointwise(n: int) -> Method:
    """n asks at once; the scores are the probabilities of yes.

    A candidate whose probability could not be had keeps its given rank. A single candidate is asked about as well, other than by
    the methods that give an order: its probability says something beside those of other queries.
    """
    probabilities: list[float | None] = [None] * n
    asks = [Ask((position,), Form.YES_NO) for position in range(n)]
    for _ in range(n):
        ask, reply = yield asks
        probabilities[ask.documents[0]] = reply.probability
        asks = []
    return Ranking.of_scores(probabilities)
