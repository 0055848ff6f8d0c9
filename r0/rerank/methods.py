"""Selects the rerank method for a configuration and n candidates."""

from __future__ import annotations

from r0.config import RankingKeys
from r0.data.hashes import hash_key
from r0.records import Answer, Form
from r0.rerank.consensus import consensus
from r0.rerank.groupwise import groupwise
from r0.rerank.job import Job
from r0.rerank.listwise import listwise
from r0.rerank.pointwise import pointwise
from r0.rerank.protocol import Method, Question, Ranking, Reply
from r0.rerank.setwise import setwise


def method_of(keys: RankingKeys, job: Job) -> Method:
    """The method for a job."""
    if job.samples:
        return until_agreed(job.samples, job.known)
    return each(len(job.documents)) if job.each else make_method(keys, len(job.documents), job.query_id)


def make_method(keys: RankingKeys, n: int, query_id: str) -> Method:
    """The method that orders ``n`` candidates; its shuffles are seeded by the run's seed and the query."""
    seed = hash_key(keys.seed, query_id)

    def sample(number: int) -> Method:
        if keys.method == "pointwise":
            return pointwise(n)
        if keys.method == "listwise":
            return listwise(n, keys.window, keys.step or keys.window // 2, keys.passes)
        if keys.method == "setwise":
            return setwise(n, keys.set_size, keys.top_k)
        return groupwise(n, keys.group_size, keys.partitions, hash_key(seed, "groups", number))

    return consensus(sample, n, keys.samples, seed)


def each(n: int) -> Method:
    """Score each document on its own, even a single one; only the replies matter, the ranking is the first-stage order."""
    questions = [Question((position,), Form.YES_NO) for position in range(n)]
    for _ in range(n):
        yield questions
        questions = []
    return Ranking.of_order(range(n))


def until_agreed(samples: int, known: Answer | None) -> Method:
    """Sample verdicts on the single document until one equals ``known``, or is readable if there is no label.

    Samples are drawn one after another, at most ``samples``: a document with a correct first verdict costs one.
    """
    for number in range(samples):
        _, reply = yield [Question((0,), Form.YES_NO, number)]
        if agrees(reply, known):
            break
    return Ranking.of_order((0,))


def agrees(reply: Reply, known: Answer | None) -> bool:
    """Whether a verdict is readable and equals ``known``, if given."""
    return reply.answer is not None and known in (None, reply.answer)


def concurrent_questions(keys: RankingKeys, n: int) -> int:
    """Approximate number of questions in flight at once for a list of ``n`` candidates."""
    own = {
        "pointwise": n,
        "listwise": 1,
        "setwise": n // keys.set_size**2,
        "groupwise": -(-n // keys.group_size) * keys.partitions,
    }
    return max(1, own[keys.method]) * keys.samples
