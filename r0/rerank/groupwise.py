"""Groupwise reranking: scores for groups of candidates, all groups in parallel, averaged over random partitions.

GroupRank (Sun et al., 2025) scores the documents of a group together. A document's score depends on the rest of its group, so
scores of several partitions are averaged.
"""

from __future__ import annotations

from math import fsum

from r0.data.hashes import hash_key, shuffled
from r0.records import Form
from r0.rerank.protocol import Method, Question, Ranking


def groupwise(n: int, group_size: int = 20, partitions: int = 1, seed: int = 0) -> Method:
    """``partitions`` × ⌈n / group_size⌉ questions at once; the scores are means, in the model's own scale (it is asked for 0…10).

    Groups and their order depend on (seed, partition), and their sizes differ by at most one; ``seed`` should differ between
    queries. A document missing from an answer gets no score from it; one without any score keeps its first-stage rank.
    """
    if n < 2:
        return Ranking.of_order(range(n))
    questions = [
        Question(group, Form.SCORES, partition)
        for partition in range(partitions)
        for group in _groups(n, group_size, seed, partition)
    ]
    votes: list[list[float]] = [[] for _ in range(n)]
    for _ in range(len(questions)):
        question, reply = yield questions
        questions = []
        for position, score in zip(question.documents, reply.scores or (), strict=reply.scores is not None):
            if score is not None:
                votes[position].append(score)
    # fsum is exact, so the mean does not depend on the order in which replies arrive.
    return Ranking.of_scores([fsum(scores) / len(scores) if scores else None for scores in votes])


def _groups(n: int, group_size: int, seed: int, partition: int) -> list[tuple[int, ...]]:
    order = shuffled(n, hash_key(seed, "partition", partition))
    count = -(-n // group_size)
    return [tuple(order[group::count]) for group in range(count)]
