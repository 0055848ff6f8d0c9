"""Builds triplets from a teacher's scores: (query, positive, negative, score_diff), the training data of MarginMSE.

Hofstätter et al., "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation", 2021: the
student learns the teacher's margin between two documents. Each pair of a query's documents with different labels is a
triplet; the document with the higher label is the positive, whatever its score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from r0.config import DistillTripletsConfig
from r0.data.hashes import hash_key, shuffled
from r0.data.jsonl import BadLines, Row, readable_file
from r0.data.scored import ScoredList, read_scored
from r0.distill.check_scores import check_scores_match
from r0.errors import UserError
from r0.storage.files import json_line, write_atomic, writing
from r0.teacher.labelled_lists import LabelledLists


@dataclass(slots=True)
class Statistics:
    """Statistics of a file of triplets, and counts of what was dropped."""

    bad: BadLines = field(default_factory=BadLines)
    queries: int = 0  # with at least one triplet
    without_pair: int = 0  # queries whose scored documents all have the same label
    unscored: int = 0  # documents without a teacher score
    capped: int = 0  # triplets beyond max_per_query
    count: int = 0
    total: float = 0.0  # sum of the differences
    least: float = math.inf
    most: float = -math.inf
    disagree: int = 0  # the teacher scores the negative higher
    ties: int = 0  # the teacher scores both equal

    def add(self, difference: float) -> None:
        """Count one triplet."""
        self.count += 1
        self.total += difference
        self.least, self.most = min(self.least, difference), max(self.most, difference)
        self.disagree += difference < 0
        self.ties += difference == 0

    def summary(self) -> str:
        """A printable summary."""
        share = f"{self.disagree / self.count:.1%}"
        lines = [
            f"{self.count} triplets of {self.queries} queries",
            f"score_diff: mean {self.total / self.count:.4f}, min {self.least:.4f}, max {self.most:.4f}",
            f"the teacher scores the negative higher: {self.disagree} ({share})"
            + (f"; equal scores: {self.ties}" if self.ties else ""),
        ]
        if self.unscored:
            lines.append(f"{self.unscored} documents dropped: no teacher score")
        if self.without_pair:
            lines.append(f"{self.without_pair} queries dropped: no pair of documents with different labels")
        if self.capped:
            lines.append(f"{self.capped} triplets dropped: beyond max_per_query")
        return "\n".join([*lines, *filter(None, [self.bad.summary()])])


def write_triplets(config: DistillTripletsConfig) -> Statistics:
    """Atomically write the triplets of ``config.data`` to ``config.output``.

    Raises:
        UserError: the scores cannot be used or contain no pair, or the output already exists.
    """
    scores, output = Path(config.data).expanduser(), Path(config.output).expanduser()
    if output.exists():
        raise UserError(f"output: {output} already exists; delete it, or give another output=")
    readable_file(scores, "the scores.jsonl that `distill score` wrote")
    if config.source is not None:
        check_scores_match(scores, LabelledLists(config.source, 1, 0, config.skip_bad))
    found = Statistics(BadLines(config.skip_bad))
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, _lines(scores, config, found))
    return found


def _lines(scores: Path, config: DistillTripletsConfig, found: Statistics) -> Iterator[bytes]:
    """The lines of the file.

    Raises:
        UserError: there are none.
    """
    for one in read_scored(scores, found.bad, f"reading {scores.name}"):
        for row in _triplets(one, config, found):
            yield json_line(row)
    if not found.count:
        raise UserError(
            f"{scores}: no query has two scored documents with different labels; "
            "give the scores of data with positives and negatives"
        )


def _triplets(one: ScoredList, config: DistillTripletsConfig, found: Statistics) -> Iterator[Row]:
    """The triplets of a query; if there are too many, ``max_per_query`` are drawn by the hash of (seed, query) and kept in
    order.
    """
    found.unscored += one.scores.count(None)
    scored = zip(one.documents, one.labels, one.scores, strict=True)
    hits = [(document, label, score) for document, label, score in scored if score is not None]
    pairs = [(positive, negative) for positive in hits for negative in hits if positive[1] > negative[1]]
    found.queries += bool(pairs)
    found.without_pair += not pairs
    if config.max_per_query is not None and len(pairs) > config.max_per_query:
        found.capped += len(pairs) - config.max_per_query
        drawn = shuffled(len(pairs), hash_key(config.seed, "triplets", one.query))[: config.max_per_query]
        pairs = [pairs[place] for place in sorted(drawn)]
    for (positive, _, high), (negative, _, low) in pairs:
        found.add(high - low)
        yield {"query": one.query, "positive": positive, "negative": negative, "score_diff": high - low}
