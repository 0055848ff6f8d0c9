"""Documents with a teacher's scores: what ``distill score`` writes and what a student learns from.

A line is a query: ``{"query", "hits": [{"content", "label", "score"}, …]}``, the hits in the order of the data. ``score`` is the
teacher's raw logit, whatever its scale, and null where the teacher gave none. Such a file is a grouped file too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r0.data.jsonl import BadLine, BadLines, Row, number_of, objects_of, read_lines, readable_file, text_of
from r0.errors import UserError


@dataclass(frozen=True, slots=True)
class ScoredList:
    """A query with documents [N], labels [N] and a teacher's raw scores [N], None where it gave none; ``place`` is file:line."""

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    scores: tuple[float | None, ...]
    place: str = ""


def scored_row(one: ScoredList) -> Row:
    """One line of the file."""
    hits = [
        {"content": document, "label": int(label) if label == int(label) else label, "score": score}
        for document, label, score in zip(one.documents, one.labels, one.scores, strict=True)
    ]
    return {"query": one.query, "hits": hits}


def scored_list(row: Row, place: str = "") -> ScoredList:
    """What a line holds.

    Raises:
        BadLine: a field is missing or wrong, or there is no hit.
    """
    query, hits = text_of(row, "query"), objects_of(row, "hits")
    if not hits:
        raise BadLine('"hits" is empty; leave the query out')
    documents, labels, scores = [], [], []
    for index, hit in enumerate(hits):
        where = f"hits[{index}]: "
        documents.append(text_of(hit, "content", where))
        labels.append(number_of(hit, "label", where))
        if "score" not in hit:
            raise BadLine(f'{where}the field "score" is missing; `distill score` writes it')
        scores.append(None if hit["score"] is None else number_of(hit, "score", where))
    return ScoredList(query, tuple(documents), tuple(labels), tuple(scores), place)


def read_scored(path: Path, bad: BadLines, title: str = "") -> Iterator[ScoredList]:
    """The lines of a file in order; bad ones go to ``bad``. ``title`` shows the progress of a long pass.

    Raises:
        UserError: the file cannot be read, or has no good line; a bad line, where ``bad`` does not skip them.
    """
    readable_file(path, "the scores.jsonl that `distill score` wrote")
    found = False
    for line in read_lines(path, bad, title):
        try:
            one = scored_list(line.row, f"{path}:{line.number}")
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        found = True
        yield one
    if not found:
        raise UserError(f"{path}: no query with scores in it; give the scores.jsonl that `distill score` wrote")
