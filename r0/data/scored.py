"""Documents with a teacher's scores: the output of ``distill score`` and the training data of a student.

One query per line: ``{"query", "hits": [{"content", "label", "score"}, …]}``, with the hits in the order of the data.
``score`` is the teacher's raw logit, in its own scale, or null if there is none. Such a file is also a valid grouped file.

Rows of other tools are read, too: FlagEmbedding's ``{"query", "pos", "neg", "pos_scores", "neg_scores"}``, and
sentence-transformers' positive and negatives with one list of scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r0.data.fields import number_of, objects_of
from r0.data.grades import grade_of
from r0.data.jsonl import BadLine, BadLines, Row, read_lines, readable_file
from r0.data.row_keys import CONTRADICTION, DOCUMENT, LABELS, POSITIVES, QUERY, Keys
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


def scored_list(keys: Keys, place: str = "") -> ScoredList:
    """Parse a row: hits with scores, or positives and negatives with their scores.

    Raises:
        BadLine: a field is missing or invalid, or there are no hits.
    """
    query = keys.text(QUERY)
    if keys.find(("hits",)) is None and keys.row.keys() & set(POSITIVES):
        return _of_positives(query, keys, place)
    hits = objects_of(keys.row, "hits")
    if not hits:
        raise BadLine('"hits" is empty; remove the query')
    documents, labels, scores = [], [], []
    for index, hit in enumerate(hits):
        inner = Keys(hit, f"hits[{index}]: ")
        documents.append(inner.document(DOCUMENT))
        labels.append(grade_of(hit, inner.name(("label",)), inner.where))
        if "score" not in hit:
            raise BadLine(f'{inner.where}the field "score" is missing; `distill score` writes it')
        scores.append(number_of(hit, "score", inner.where) if inner.find(("score",)) else None)
        keys.inner("hits", inner)
    return ScoredList(query, tuple(documents), tuple(labels), tuple(scores), place)


def _of_positives(query: str, keys: Keys, place: str) -> ScoredList:
    """A row of FlagEmbedding (``pos_scores``, ``neg_scores``), or of sentence-transformers (one list of scores)."""
    positives, negatives = keys.texts(POSITIVES), keys.negatives()
    scores = keys.numbers((*LABELS, "score", "label"), len(positives) + len(negatives))
    if scores is None:
        of_positives, of_negatives = keys.numbers(("pos_scores",), len(positives)), keys.numbers(("neg_scores",), len(negatives))
        if of_positives is None or of_negatives is None:
            raise BadLine('the scores are missing; give "pos_scores" and "neg_scores", or "scores" with one for every text')
        scores = [*of_positives, *of_negatives]
    found: dict[str, tuple[str, float, float | None]] = {}
    for number, (text, score) in enumerate(zip((*positives, *negatives), scores, strict=True)):
        label = float(number < len(positives))
        if found.setdefault(text.strip(), (text, label, score))[1] != label:
            keys.notes.append(CONTRADICTION)
    documents, labels, kept = zip(*found.values(), strict=True) if found else ((), (), ())
    return ScoredList(query, documents, labels, kept, place)


def read_scored(path: Path, bad: BadLines, title: str = "") -> Iterator[ScoredList]:
    """The lines of a file in order; bad lines go to ``bad``. ``title``: shown with the progress of a long pass.

    Raises:
        UserError: the file cannot be read or has no valid line, or a line is bad and ``bad`` does not skip.
    """
    readable_file(path, "the scores.jsonl that `distill score` wrote")
    found = False
    for line in read_lines(path, bad, title):
        try:
            keys = Keys(line.row)
            one = scored_list(keys, f"{path}:{line.number}")
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        found = True
        keys.tell(bad, path)
        yield one
    if not found:
        raise UserError(f"{path}: contains no query with scores; give the scores.jsonl that `distill score` wrote")
