"""Documents with a teacher's scores: the output of ``distill score`` and the training data of a student.

One query per line: ``{"query", "hits": [{"content", "label", "score"}, …]}``, with the hits in the order of the data.
``score`` is the teacher's raw logit, in its own scale, or null if there is none. Such a file is also a valid grouped file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r0.data.grades import grade_of
from r0.data.jsonl import BadLine, BadLines, Row, number_of, objects_of, read_lines, readable_file, text_of
from r0.errors import UserError


@dataclass(frozen=True, slots=True)
class ScoredList:
    """A query with documents [N], labels [N] and a teacher's raw scores [N] (None if missing); ``place`` is file:line."""

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
    """Parse a line.

    Raises:
        BadLine: a field is missing or invalid, or there are no hits.
    """
    query, hits = text_of(row, "query"), objects_of(row, "hits")
    if not hits:
        raise BadLine('"hits" is empty; remove the query')
    documents, labels, scores = [], [], []
    for index, hit in enumerate(hits):
        where = f"hits[{index}]: "
        documents.append(text_of(hit, "content", where))
        labels.append(grade_of(hit, "label", where))
        if "score" not in hit:
            raise BadLine(f'{where}the field "score" is missing; `distill score` writes it')
        scores.append(None if hit["score"] is None else number_of(hit, "score", where))
    return ScoredList(query, tuple(documents), tuple(labels), tuple(scores), place)


def read_scored(path: Path, bad: BadLines, title: str = "") -> Iterator[ScoredList]:
    """The lines of a file in order; bad lines go to ``bad``. ``title``: shown with the progress of a long pass.

    Raises:
        UserError: the file cannot be read or has no valid line, or a line is bad and ``bad`` does not skip.
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
        raise UserError(f"{path}: contains no query with scores; give the scores.jsonl that `distill score` wrote")
