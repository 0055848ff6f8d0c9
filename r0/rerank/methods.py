"""Which method a configuration means, for a list of n candidates."""

from __future__ import annotations

from r0.config import RankingKeys
from r0.data.hashes import hash_key
from r0.records import Answer, Form
from r0.rerank.asks import Ask, Method, Ranking, Reply
from r0.rerank.consensus import consensus
from r0.rerank.groupwise import groupwise
from r0.rerank.job import Job
from r0.rerank.listwise import listwise
from r0.rerank.pointwise import pointwise
from r0.rerank.setwise import setwise


def method_of(keys: RankingKeys, job: Job) -> Method:
    """The method that a job asks for."""
    if job.samples:
        return until_agreed(job.samples, job.known)
    return each(len(job.documents)) if job.each else make_method(keys, len(job.documents), job.query_id)


def make_method(keys: RankingKeys, n: int, query_id: str) -> Method:
    """The method that orders ``n`` candidates; its shuffles are addressed by the run's seed and the query."""
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
    """Asks about every document by itself, a single one too; the replies are what is wanted, the ranking is the given order."""
    asks = [Ask((position,), Form.YES_NO) for position in range(n)]
    for _ in range(n):
        yield asks
        asks = []
    return Ranking.of_order(range(n))


def until_agreed(samples: int, known: Answer | None) -> Method:
    """Asks about the one document again until the answer is the ``known`` one, or can be read where none is known.

    One sample follows the other, ``samples`` at most: a document that is answered rightly at once costs one.
    """
    for number in range(samples):
        _, reply = yield [Ask((0,), Form.YES_NO, number)]
        if agrees(reply, known):
            break
    return Ranking.of_order((0,))


def agrees(reply: Reply, known: Answer | None) -> bool:
    """Whether a verdict can be read and is the ``known`` one, if any is."""
    return reply.answer is not None and known in (None, reply.answer)


def width(keys: RankingKeys, n: int) -> int:
    """About how many asks of a list of ``n`` candidates can be in flight at the same time."""
    own = {
        "pointwise": n,
        "listwise": 1,
        "setwise": n // keys.set_size**2,
        "groupwise": -(-n // keys.group_size) * keys.partitions,
    }
    return max(1, own[keys.method]) * keys.samples
