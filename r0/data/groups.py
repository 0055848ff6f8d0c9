"""Turns labelled documents into training examples in the shape a loss needs: pairs, lists of one length, or a positive with its
negatives.

Everything is a pure function of the labelled documents and the seed. Where documents are drawn or split into groups, their
order is a shuffle keyed by (seed, query), so the order of hits in the file and the number of ranks have no influence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from r0.data.hashes import hash_key, mix, shuffled
from r0.data.labelled import Labelled, LabelledKind

LONG = 100  # characters; shorter documents are never shuffled
_THIRDS = 3


class Shape(StrEnum):
    """The shape of a loss's examples."""

    PAIR = "pair"  # one document, one label
    LIST = "list"  # train_group_size documents and labels
    SCORED = "scored"  # the same, the highest label first
    TUPLE = "tuple"  # a positive and its negatives, no labels


SHAPES: Mapping[str, Shape] = {
    "pointwise_bce": Shape.PAIR,
    "pointwise_mse": Shape.PAIR,
    "pairwise_ranknet": Shape.LIST,
    "listwise_ce": Shape.LIST,
    "listwise_lambda": Shape.LIST,
    "listwise_mle": Shape.LIST,
    "margin_mse": Shape.SCORED,
    "in_batch_negatives": Shape.TUPLE,
}
IMPOSSIBLE = -1e4  # a label whose softmax weight is 0


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: a query with documents [N] and their labels [N]."""

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]


@dataclass
class ExampleCounts:
    """Counts of what was dropped or repeated while examples were made."""

    one_sided: int = 0  # queries dropped because there is nothing to compare
    one_label: int = 0  # groups dropped because all their documents have the same label
    repeated: int = 0  # groups filled up with documents already used for the query
    unscored: int = 0  # documents without a teacher score

    def summary(self) -> str:
        """A printable summary; empty if all counts are 0."""
        said = []
        if self.one_sided:
            said.append(f"{self.one_sided} queries dropped: no two of their documents differ in label")
        if self.one_label:
            said.append(f"{self.one_label} groups of longer lists dropped: all their documents have the same label")
        if self.repeated:
            said.append(f"{self.repeated} short groups repeat documents")
        if self.unscored:
            said.append(f"{self.unscored} documents dropped: no teacher score")
        return "; ".join(said)


def examples(
    found: Iterable[Labelled], kind: LabelledKind, shape: Shape, size: int, seed: int, left: ExampleCounts, negatives: bool = True
) -> Iterator[Example]:
    """The training examples of labelled documents, in order.

    Args:
        found: labelled documents of one kind.
        kind: their kind.
        shape: the shape the loss needs.
        size: documents per example, for all shapes but pairs.
        seed: of the draws.
        left: updated with what is dropped and repeated.
        negatives: for tuples: whether each has ``size`` − 1 negatives, or none.
    """
    for one in found:
        left.unscored += one.unscored
        if kind == LabelledKind.TRIPLETS:
            yield Example(one.query, one.documents, one.labels)
        elif shape == Shape.PAIR:
            yield from (
                Example(one.query, (document,), (label,)) for document, label in zip(one.documents, one.labels, strict=True)
            )
        elif len(set(one.labels)) < 2 and not (shape == Shape.TUPLE and not negatives and max(one.labels) > 0):
            left.one_sided += 1
        elif kind == LabelledKind.POSITIVES:
            yield from _with_one_positive(one, size if negatives else 1, seed, left)
        else:
            yield from _groups_of_one_query(one, size, seed, left, shape == Shape.SCORED)


def target_labels(loss: str, example: Example) -> tuple[float, ...]:
    """The labels [M] of an example as its loss expects them.

    * listwise_ce: if exactly one document has label 1 and all others 0, the target is that document; otherwise it is the
      softmax of the labels (teacher scores, or grades).
    * pairwise_ranknet: shifted to start at 0, since only differences matter.
    """
    labels = example.labels
    if loss == "listwise_ce" and set(labels) == {0.0, 1.0}:
        positives = {document for document, label in zip(example.documents, labels, strict=True) if label}
        if len(positives) == 1:
            return tuple(0.0 if label else IMPOSSIBLE for label in labels)
    if loss == "pairwise_ranknet":
        return tuple(label - min(labels) for label in labels)
    return labels


def by_query(found: Iterable[Labelled]) -> list[Labelled]:
    """Collect documents by query, in order of each query's first occurrence.

    If there are grades, they become the labels and each document of a query is kept once, with its highest grade: in one
    triplet it may be the positive, in another the negative.
    """
    gathered: dict[str, tuple[list[str], list[float], str]] = {}
    places: dict[str, dict[str, int]] = {}
    for one in found:
        documents, labels, _ = gathered.setdefault(one.query, ([], [], one.place))
        if not one.grades:
            documents += one.documents
            labels += one.labels
            continue
        known = places.setdefault(one.query, {})
        for text, grade in zip(one.documents, one.grades, strict=True):
            if text in known:
                labels[known[text]] = max(labels[known[text]], grade)
                continue
            known[text] = len(documents)
            documents.append(text)
            labels.append(grade)
    return [Labelled(query, tuple(texts), tuple(values), place) for query, (texts, values, place) in gathered.items()]


def with_thirds_shuffled(document: str, share: float, key: int) -> str:
    """``document``; for a ``share`` of the long documents, with its thirds in another order, joined by spaces.

    Documents longer than ``LONG`` characters are long (RAG-Retrieval's shuffle_rate).

    Args:
        document: the text.
        share: in [0, 1].
        key: seed of the draw and of the order.
    """
    if share <= 0 or len(document) <= LONG or mix(key) >= share * 2**64:
        return document
    width = -(-len(document) // _THIRDS)
    parts = [document[start : start + width] for start in range(0, len(document), width)]
    return " ".join(parts[place] for place in shuffled(len(parts), key + 1))


def _groups_of_one_query(one: Labelled, size: int, seed: int, left: ExampleCounts, highest_first: bool) -> Iterator[Example]:
    """Groups of ``size`` documents of one query; the last group is filled up with documents from the beginning."""
    count = len(one.documents)
    order = shuffled(count, hash_key(seed, "groups", one.query))
    for start in range(0, count, size):
        taken = order[start : start + size]
        if len(taken) < size:
            left.repeated += 1
            taken += [order[place % count] for place in range(size - len(taken))]
        labels = [one.labels[place] for place in taken]
        if len(set(labels)) == 1:
            left.one_label += 1
            continue
        if highest_first:
            taken.sort(key=lambda place: -one.labels[place])
        yield _example(one, taken)


def _with_one_positive(one: Labelled, size: int, seed: int, left: ExampleCounts) -> Iterator[Example]:
    """One group per positive, with ``size`` − 1 negatives; the positives of a query take the negatives in turn."""
    positives = [place for place, label in enumerate(one.labels) if label > 0]
    others = [place for place, label in enumerate(one.labels) if label <= 0]
    order = [others[place] for place in shuffled(len(others), hash_key(seed, "negatives", one.query))]
    for number, positive in enumerate(positives):
        wanted = range(number * (size - 1), (number + 1) * (size - 1))
        left.repeated += len(order) < size - 1
        yield _example(one, [positive, *(order[place % len(order)] for place in wanted)])


def _example(one: Labelled, places: Sequence[int]) -> Example:
    return Example(one.query, tuple(one.documents[p] for p in places), tuple(one.labels[p] for p in places))
