"""Scores from 0 to 10 for groups of candidates, all groups at once, averaged over random partitions.

GroupRank (Sun et al., 2025) scores groups side by side. A document's score depends on the company it is shown in, so several
partitions with other company are averaged.
"""

from __future__ import annotations

from math import fsum

from r0.data.hashes import hash_key, shuffled
from r0.records import Form
from r0.rerank.asks import Ask, Method, Ranking


def groupwise(n: int, group_size: int = 20, partitions: int = 1, seed: int = 0) -> Method:
    """``partitions`` × ⌈n / group_size⌉ asks at once; the scores are means, in 0…10.

    Groups are drawn and shown by the address (seed, partition), and their sizes differ by one at most; ``seed`` should differ
    from query to query. A document that an answer leaves out has no vote from it; one without any vote keeps its given rank.
    """
    if n < 2:
        return Ranking.of_order(range(n))
    asks = [
        Ask(group, Form.SCORES, partition) for partition in range(partitions) for group in _groups(n, group_size, seed, partition)
    ]
    votes: list[list[float]] = [[] for _ in range(n)]
    for _ in range(len(asks)):
        ask, reply = yield asks
        asks = []
        for position, score in zip(ask.documents, reply.scores or (), strict=reply.scores is not None):
            if score is not None:
                votes[position].append(score)
    # fsum is exact, so the mean does not depend on the order in which the votes came.
    return Ranking.of_scores([fsum(scores) / len(scores) if scores else None for scores in votes])


def _groups(n: int, group_size: int, seed: int, partition: int) -> list[tuple[int, ...]]:
    order = shuffled(n, hash_key(seed, "partition", partition))
    count = -(-n // group_size)
    return [tuple(order[group::count]) for group in range(count)]
