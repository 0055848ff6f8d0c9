"""Measures of a ranking against graded labels: nDCG, recall, rank-biased overlap, divergence of scores. Pure functions.

A ranking is of type ``Groups``: groups of tied documents, best first. Documents are numbered from 0.

* The value of a tie is the mean over all orders of its documents (McSherry & Najork 2008), so ties give no advantage.
* Documents that a ranking does not name come after all others, tied with each other.
* Gains are linear, as in trec_eval: the grade, or 0 if it is negative. The discount of rank r is 1 / log2(r + 1).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import TypeAlias

Groups: TypeAlias = tuple[tuple[int, ...], ...]


def groups_of(scores: Sequence[float]) -> Groups:
    """The ranking by ``scores`` [N], highest first; documents of equal scores are tied, in index order."""
    tied: dict[float, list[int]] = {}
    for document, score in enumerate(scores):
        tied.setdefault(score, []).append(document)
    return tuple(tuple(tied[score]) for score in sorted(tied, reverse=True))


def groups_of_order(order: Iterable[int]) -> Groups:
    """The ranking of an order without ties."""
    return tuple((document,) for document in order)


def ideal_groups(grades: Sequence[float]) -> Groups:
    """The best ranking for ``grades`` [N]; documents of equal gain are tied (negative grades gain 0)."""
    return groups_of([max(grade, 0.0) for grade in grades])


def ndcg(grades: Sequence[float], groups: Sequence[Sequence[int]], k: int) -> float:
    """nDCG@k in [0, 1]; 0 if no document has a positive grade.

    Args:
        grades: [N], one per document.
        groups: the ranking; it may leave documents out.
        k: cutoff rank, from 1.

    Raises:
        ValueError: ``groups`` names a document twice, or a document without a grade.
    """
    gains = [grade if grade > 0 else 0.0 for grade in grades]
    reach = _discounts(len(gains), k)
    ideal = math.fsum(gain * (reach[rank + 1] - reach[rank]) for rank, gain in enumerate(sorted(gains, reverse=True)))
    if not ideal:
        return 0.0
    worth, rank = [], 0
    for group in _with_missing(len(gains), groups):
        end = rank + len(group)
        worth.append(sum([gains[document] for document in group]) / len(group) * (reach[end] - reach[rank]))
        rank = end
    return min(1.0, math.fsum(worth) / ideal)  # rounding can exceed 1


def recall(relevant: Collection[int], groups: Sequence[Sequence[int]], k: int) -> float:
    """Share of ``relevant`` documents among the first k, in [0, 1]; 0 if there are none. Documents not in ``groups`` are not
    retrieved.
    """
    if not relevant:
        return 0.0
    found, rank = 0.0, 0
    for group in groups:
        shown = min(len(group), k - rank)
        if shown <= 0:
            break
        found += sum([document in relevant for document in group]) * shown / len(group)
        rank += len(group)
    return found / len(relevant)


def reciprocal_rank(relevant: Collection[int], groups: Sequence[Sequence[int]]) -> float:
    """1 / rank of the first ``relevant`` document, in (0, 1]; 0 if ``groups`` has none. Ties count as the mean over their orders:
    of n tied documents of which r are relevant, the first relevant one is k-th with probability C(n − k, r − 1) / C(n, r).
    """
    before = 0
    for group in groups:
        size, found = len(group), sum(document in relevant for document in group)
        if found:
            orders = math.comb(size, found)
            ranks = range(1, size - found + 2)
            return math.fsum(math.comb(size - rank, found - 1) / orders / (before + rank) for rank in ranks)
        before += size
    return 0.0


def rbo(groups: Sequence[Sequence[int]], ideal: Sequence[Sequence[int]], p: float) -> float:
    """Rank-biased overlap in (0, 1], extrapolated (Webber, Moffat & Zobel 2010, equation 32, over the documents of both).

    (1 − p)/p · Σ_d p^d · A_d + p^N · A_N, where A_d is the share of common documents among the first d of each ranking. Ties
    in either ranking are averaged over their orders (RBO^a of Corsi & Urbano 2024), so the overlap of a tied ranking with
    itself is below 1.

    Args:
        groups, ideal: the rankings; the measure is symmetric.
        p: persistence, 0 < p < 1; a small p emphasizes the top ranks.

    Raises:
        ValueError: p is not between 0 and 1, or a ranking names a document twice.
    """
    if not 0 < p < 1:
        raise ValueError(f"persistence p of rank-biased overlap is {p}, but must be between 0 and 1")
    size = max(chain((0,), *groups, *ideal)) + 1
    left, right = _by_rank(size, groups), _by_rank(size, ideal)
    left_share, right_share = [0.0] * size, [0.0] * size  # share of tie orders with the document among the first d
    overlap, total, weight = 0.0, 0.0, 1.0
    for depth, (ours, theirs) in enumerate(zip(left, right, strict=True), 1):
        for document in ours:
            left_share[document] += 1 / len(ours)
            overlap += right_share[document] / len(ours)
        for document in theirs:
            right_share[document] += 1 / len(theirs)
            overlap += left_share[document] / len(theirs)
        total += weight * overlap / depth
        weight *= p
    return min(1.0, (1 - p) * total + weight * overlap / size)


def share_ordered(grades: Sequence[float], groups: Sequence[Sequence[int]]) -> float:
    """Share of the tie orders of ``groups`` in which no document follows one with a smaller gain (1 or 0 if nothing is tied).

    Raises:
        ValueError: ``groups`` names a document twice, or a document without a grade.
    """
    share, least = 1.0, math.inf
    for group in _with_missing(len(grades), groups):
        gains = [max(grades[document], 0.0) for document in group]
        if max(gains) > least:
            return 0.0
        least = min(gains)
        share *= math.prod(math.factorial(gains.count(gain)) for gain in set(gains)) / math.factorial(len(gains))
    return share


def js_divergence(scores: Sequence[float], grades: Sequence[float]) -> float:
    """Jensen-Shannon divergence, base 2, in [0, 1]; 0 if ``scores`` and ``grades`` are equal up to scale.

    Each is divided by its sum to give a distribution over the N documents. Negative values count as 0; if all are 0, the
    distribution is uniform.

    Raises:
        ValueError: the lengths differ, or there are no scores.
    """
    if len(scores) != len(grades) or not scores:
        raise ValueError(f"{len(scores)} scores and {len(grades)} grades: each document needs one of both")
    terms = []
    for ours, theirs in zip(_distribution(scores), _distribution(grades), strict=True):
        middle = (ours + theirs) / 2
        terms += [share / 2 * math.log2(share / middle) for share in (ours, theirs) if share > 0]
    return min(1.0, max(0.0, math.fsum(terms)))


def _distribution(values: Sequence[float]) -> list[float]:
    positive = [max(value, 0.0) for value in values]
    most = max(positive)
    if most <= 0:
        return [1 / len(positive)] * len(positive)
    scaled = [value / most for value in positive]  # avoids overflow and underflow of the sum
    total = math.fsum(scaled)
    return [value / total for value in scaled]


@lru_cache(maxsize=256)
def _discounts(size: int, k: int) -> tuple[float, ...]:
    """[size + 1] sums of the discounts of the first 0, 1, …, size ranks; ranks beyond k have no discount term."""
    return tuple(accumulate((1 / math.log2(rank + 1) if rank <= k else 0.0 for rank in range(1, size + 1)), initial=0.0))


def _with_missing(size: int, groups: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """``groups`` with the documents left out as a last group."""
    named = list(chain.from_iterable(groups))
    seen = set(named)
    if len(seen) < len(named):
        raise ValueError("a ranking names a document twice")
    if named and not 0 <= min(named) <= max(named) < size:
        raise ValueError(f"a ranking names a document outside 0 to {size - 1}")
    groups = [group for group in groups if group]
    return groups if len(named) == size else [*groups, [document for document in range(size) if document not in seen]]


def _by_rank(size: int, groups: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """[size] the group at each rank."""
    return [group for group in _with_missing(size, groups) for _ in group]
