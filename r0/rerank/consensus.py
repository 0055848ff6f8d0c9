"""Permutation self-consistency (Tang et al., 2024): runs one method several times with shuffled documents and aggregates the
rankings.

A model's answer depends on the positions of documents in the prompt. Each question of each sample is shown in a shuffled
order, which is undone in the reply, so this dependence averages out over the samples. The rankings are then aggregated: by
mean rank (Borda), followed by local Kemenization (Dwork et al., 2001), which swaps neighbours whenever most samples prefer
it, until no such swap reduces the Kendall distance to the samples. The paper seeks the closest of all orders, which is
NP-hard in the length of the list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from r0.data.hashes import hash_key, shuffled
from r0.rerank.protocol import Method, MethodRun, Question, Ranking, Reply


def consensus(make: Callable[[int], Method], n: int, samples: int, seed: int = 0) -> Method:
    """The aggregated ranking of ``make(0)`` to ``make(samples − 1)``, all in flight at once.

    ``seed`` should differ between queries, otherwise all are shuffled alike. The sample numbers of the inner questions become
    ``inner × samples + sample``, so that all questions differ. Tied documents keep the inner method's order, not the shuffled
    one. With one sample it is the plain method, without shuffling.
    """
    if samples == 1:
        return (yield from make(0))
    if n < 2:
        return Ranking.of_order(range(n))
    method_runs = [MethodRun(make(sample)) for sample in range(samples)]
    inner: dict[Question, tuple[Question, list[int]]] = {}  # shown question → inner question and its shuffle

    def shown(sample: int, questions: Sequence[Question]) -> list[Question]:
        made = []
        for question in questions:
            shuffle = shuffled(len(question.documents), hash_key(seed, "shown", sample, question.sample, *question.documents))
            documents = tuple(question.documents[i] for i in shuffle)
            made.append(Question(documents, question.form, question.sample * samples + sample))
            inner[made[-1]] = question, shuffle
        return made

    questions = [question for sample, method_run in enumerate(method_runs) for question in shown(sample, method_run.questions)]
    while any(method_run.ranking is None for method_run in method_runs):
        question, reply = yield questions
        sample = question.sample % samples
        own, shuffle = inner.pop(question)
        questions = shown(sample, method_runs[sample].answer(own, _unshuffled(reply, shuffle)))
    return Ranking.of_order(combine([method_run.ranking.order for method_run in method_runs if method_run.ranking is not None]))


def _unshuffled(reply: Reply, shuffle: list[int]) -> Reply:
    """The reply converted to the inner method's order of documents."""
    groups = tuple(tuple(shuffle[i] for i in group) for group in reply.groups)
    scores = reply.scores
    if scores is not None:
        by_document = dict(zip(shuffle, scores, strict=True))
        scores = tuple(by_document[i] for i in range(len(scores)))
    return replace(reply, groups=groups, scores=scores)


def combine(orders: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Aggregate several orders of the documents 0…n−1: Borda, then local Kemenization; ties go to the lower number."""
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
