"""Listwise reranking: orders windows that slide from the end of the list to its top (Sun et al., 2023, RankGPT)."""

from __future__ import annotations

from r0.records import Form
from r0.rerank.protocol import Method, Question, Ranking, best_first
from r0.rerank.windows import windows


def listwise(n: int, window: int = 20, step: int = 10, passes: int = 1) -> Method:
    """One question per window, each after the previous one; ``passes`` run one after another.

    A pass moves the best ``window − step`` documents to the top. A window whose answer is unreadable keeps its order. A pass
    that changes nothing is the last one, since the next would repeat its questions and answers.

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
            question, reply = yield [Question(tuple(order[start:stop]), Form.PERMUTATION)]
            order[start:stop] = best_first(question, reply)
        if order == before:
            break
    return Ranking.of_order(order)
