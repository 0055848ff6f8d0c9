"""Setwise reranking: a heap sort whose comparisons pick the best of a small set, until the top of the list is sorted (Zhuang et
al., 2024).

A node of the heap has ``set_size − 1`` children; one question picks the best of a node and its children. Differences from the
paper:

* A set is shown in first-stage order, and if the answer is unreadable the first stage's best of the set wins. (Keeping the
  parent instead would bring the last leaf, which an extraction moves to the root, to the top of the list.) If all answers are
  unreadable the list keeps its order.
* While the heap is built, nodes of one depth are compared in parallel, since their subtrees are disjoint.
* Sets of two use a binary heap with two questions per node; with one child per node the heap would be a chain.
"""

from __future__ import annotations

from collections.abc import Generator

from r0.records import Form
from r0.rerank.protocol import Method, Question, Ranking, Reply, best_first


def setwise(n: int, set_size: int = 4, top_k: int = 10) -> Method:
    """The best ``top_k`` candidates in order, then the others in first-stage order.

    The best 10 of 100 take about 80 questions in sets of 4, and 24 in sets of 20, most of them in sequence.
    """
    if n < 2:
        return Ranking.of_order(range(n))
    heap = list(range(n))
    yield from _settle(heap, (n - 2) // _arity(set_size) + 1, set_size)
    head: list[int] = []
    while len(head) < top_k and heap:
        head.append(heap[0])
        last = heap.pop()
        if heap and len(head) < top_k:
            heap[0] = last
            yield from _settle(heap, min(1, len(heap) - 1), set_size)
    chosen = set(head)
    return Ranking.of_order(head + [position for position in range(n) if position not in chosen])


def _arity(set_size: int) -> int:
    return max(2, set_size - 1)


def _settle(heap: list[int], nodes: int, set_size: int) -> Generator[list[Question], tuple[Question, Reply], None]:
    """Sift down the first ``nodes`` nodes, all of which have children; each starts when those among its children are done."""
    arity = _arity(set_size)
    undone = [sum(child < nodes for child in range(node * arity + 1, node * arity + arity + 1)) for node in range(nodes)]
    ready = [node for node in range(nodes) if not undone[node]]
    running: dict[Question, tuple[int, Generator[Question, Reply, None]]] = {}
    questions: list[Question] = []
    while ready or running:
        for node in ready:
            sift = _sift(heap, node, set_size)
            questions.append(next(sift))
            running[questions[-1]] = node, sift
        question, reply = yield questions
        node, sift = running.pop(question)
        questions, ready = [], []
        try:
            questions = [sift.send(reply)]
            running[questions[0]] = node, sift
        except StopIteration:  # this node is done
            parent = (node - 1) // arity
            if node:
                undone[parent] -= 1
                ready = [] if undone[parent] else [parent]


def _sift(heap: list[int], node: int, set_size: int) -> Generator[Question, Reply, None]:
    """Move the best of a node and its children up to the node, and continue where it came from."""
    arity = _arity(set_size)
    while (first := node * arity + 1) < len(heap):
        best = heap[node]
        children = heap[first : first + arity]
        for i in range(0, len(children), set_size - 1):
            question = Question(tuple(sorted([best, *children[i : i + set_size - 1]])), Form.PICK)
            reply = yield question
            best = best_first(question, reply)[0]
        if best == heap[node]:
            return
        place = first + children.index(best)
        heap[node], heap[place] = best, heap[node]
        node = place
