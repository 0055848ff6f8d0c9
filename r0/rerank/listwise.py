"""Whole orders of windows that slide from the back of the list to its front (Sun et al., 2023, RankGPT)."""

from __future__ import annotations

from r0.records import Form
from r0.rerank.asks import Ask, Method, Ranking, best_first
from r0.rerank.windows import windows


def listwise(n: int, window: int = 20, step: int = 10, passes: int = 1) -> Method:
    """One ask a window, each after the one before it; the ``passes`` follow each other.

    A pass brings the best ``window − step`` documents to the head. A window whose answer could not be read stays as it is. A pass
    that changes nothing is the last: the next would ask the same questions, and the same ask has the same answer.

    Raises:
        UserError: windows would not overlap (``windows``).
    """
    spans = windows(n, window, step)
    order = list(range(n))
    if n < 2:
        return Ranking.of_order(order)
    for _ in range(passes):
        before = list(order)
        for start, stop in spans:
            ask, reply = yield [Ask(tuple(order[start:stop]), Form.PERMUTATION)]
            order[start:stop] = best_first(ask, reply)
        if order == before:
            break
    return Ranking.of_order(order)
