"""Permutation self-consistency (Tang et al., 2024): one method several times, its documents shown in other orders, one ranking.

A model's answer depends on where a document stands in the prompt. Every ask of every sample is shown in a shuffled order, which
is taken back out of the reply, so that this dependence averages out over the samples. The rankings are then combined: by mean
rank (Borda), and then by local Kemenization (Dwork et al., 2001), which swaps neighbours wherever most samples say so, until no
swap of neighbours brings the order closer to the samples in Kendall's distance. The paper seeks the closest of all orders, which
is NP-hard in the length of the list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from r0.data.hashes import hash_key, shuffled
from r0.rerank.asks import Ask, Exchange, Method, Ranking, Reply


def consensus(make: Callable[[int], Method], n: int, samples: int, seed: int = 0) -> Method:
    """The combined ranking of ``make(0)`` to ``make(samples − 1)``, all in flight at once.

    ``seed`` should differ from query to query, or all of them are shuffled alike. The samples of the inner asks become
    ``inner × samples + sample``, so that all asks differ. Documents that an answer does not tell apart
    stay in the inner method's own order, not in the shuffled one. With one sample it is the plain method, nothing shuffled.
    """
    if samples == 1:
        return (yield from make(0))
    if n < 2:
        return Ranking.of_order(range(n))
    exchanges = [Exchange(make(sample)) for sample in range(samples)]
    inner: dict[Ask, tuple[Ask, list[int]]] = {}  # what each shown ask stands for, and its shuffle

    def shown(sample: int, asks: Sequence[Ask]) -> list[Ask]:
        made = []
        for ask in asks:
            shuffle = shuffled(len(ask.documents), hash_key(seed, "shown", sample, ask.sample, *ask.documents))
            documents = tuple(ask.documents[i] for i in shuffle)
            made.append(Ask(documents, ask.form, ask.sample * samples + sample))
            inner[made[-1]] = ask, shuffle
        return made

    asks = [ask for sample, exchange in enumerate(exchanges) for ask in shown(sample, exchange.asks)]
    while any(exchange.ranking is None for exchange in exchanges):
        ask, reply = yield asks
        sample = ask.sample % samples
        own, shuffle = inner.pop(ask)
        asks = shown(sample, exchanges[sample].answer(own, _unshuffled(reply, shuffle)))
    return Ranking.of_order(combine([exchange.ranking.order for exchange in exchanges if exchange.ranking is not None]))


def _unshuffled(reply: Reply, shuffle: list[int]) -> Reply:
    """The reply as if the documents had stood in the inner method's order."""
    groups = tuple(tuple(shuffle[i] for i in group) for group in reply.groups)
    scores = reply.scores
    if scores is not None:
        by_document = dict(zip(shuffle, scores, strict=True))
        scores = tuple(by_document[i] for i in range(len(scores)))
    return replace(reply, groups=groups, scores=scores)


def combine(orders: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """One order for several orders of the same documents 0…n−1: Borda's, locally Kemenized; ties go to the lower number."""
    n = len(orders[0])
    ranks = []
    for order in orders:
        rank = [0] * n
        for place, position in enumerate(order):
            rank[position] = place
        ranks.append(rank)
    combined: list[int] = []
    for position in sorted(range(n), key=lambda position: (sum(rank[position] for rank in ranks), position)):
        place = len(combined)
        while place and 2 * sum(rank[position] < rank[combined[place - 1]] for rank in ranks) > len(ranks):
            place -= 1
        combined.insert(place, position)
    return tuple(combined)
