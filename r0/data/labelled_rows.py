"""Reads files of labelled documents: the formats of a row (see ``labelled``), and detection of a file's format by its first row.

The names of the keys are those of ``row_keys``. Keys that are not read, and texts with two labels, are noted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from r0.data.fields import objects_of
from r0.data.grades import grade_of
from r0.data.jsonl import BadLine, BadLines, Row, read_lines, readable_file, shown
from r0.data.labelled import LISTED, LabelBounds, Labelled, LabelledKind
from r0.data.row_keys import DOCUMENT, LABEL, LABELS, MARGIN, NEGATIVES, POOL, POSITIVES, QUERY, Keys
from r0.data.scored import ScoredList, scored_list
from r0.errors import UserError

_WANTED = '"query", "content", "label" (pointwise), "query", "hits" (grouped) or "query", "positives", "negatives"'


def read_labelled(path: Path, kind: LabelledKind, bounds: LabelBounds, bad: BadLines, title: str = "") -> Iterator[Labelled]:
    """The rows of a file in order; bad lines go to ``bad``, which also takes the notes.

    Raises:
        UserError: the file cannot be read, or a line is bad and ``bad`` does not skip.
    """
    for line in read_lines(path, bad, title, LISTED):
        try:
            keys = Keys(line.row)
            found = labelled(keys, kind, bounds)
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        keys.tell(bad, path)
        yield replace(found, place=f"{path}:{line.number}")


def kind_of_labelled(path: Path, skip_bad: bool, hits: LabelledKind = LabelledKind.GROUPED) -> LabelledKind:
    """Detect the format of a file by its first valid row; ``hits`` is the kind of rows with hits.

    Raises:
        UserError: no known format, or no row at all.
    """
    readable_file(path, "a JSONL file of labelled documents")
    for line in read_lines(path, BadLines(skip_bad), "", LISTED):
        kind = _kind_of_row(Keys(line.row).row, hits)
        if kind is not None:
            return kind
        if not skip_bad:
            found = shown(sorted(line.row))
            raise UserError(f"{path}:{line.number}: not labelled documents; fields must be {_WANTED}, found {found}")
    raise UserError(f"{path}: contains no labelled documents; give a file with at least one valid line")


def _kind_of_row(row: Row, hits: LabelledKind) -> LabelledKind | None:
    if "hits" in row:
        return hits
    if "score_diff" in row:
        return LabelledKind.TRIPLETS
    if row.keys() & set(POOL) and row.keys() & set(LABELS):
        return LabelledKind.GROUPED
    keys = Keys(row)
    positive, negative, label = keys.find(POSITIVES), keys.find(NEGATIVES), keys.find(LABEL)
    if positive is None:
        return LabelledKind.POINTWISE if label and keys.find(QUERY) and keys.find(DOCUMENT) else None
    if hits == LabelledKind.SCORED and (row.keys() & {"pos_scores", *LABELS} or (label and isinstance(row[label], list))):
        return LabelledKind.SCORED
    if label and isinstance(row[positive], str) and not keys.numbered() and not keys.find(POOL):
        return LabelledKind.POINTWISE if negative is None else LabelledKind.TRIPLETS
    return LabelledKind.POSITIVES


def labelled(keys: Keys, kind: LabelledKind, bounds: LabelBounds) -> Labelled:
    """Parse a row.

    Raises:
        BadLine: a field is missing or invalid, or there are no documents.
    """
    if kind == LabelledKind.SCORED:
        return _of_scored(scored_list(keys))
    query = keys.text(QUERY)
    if kind == LabelledKind.POINTWISE:
        keys.ignore("think", "answer")  # rows that imitate a thought have them
        document = keys.document((*DOCUMENT, *POSITIVES))
        return Labelled(query, (document,), (bounds.scaled(grade_of(keys.row, keys.name(LABEL))),))
    if kind == LabelledKind.TRIPLETS:
        return Labelled(query, (keys.text(POSITIVES), keys.text(NEGATIVES)), (_margin(keys), 0.0), grades=(1.0, 0.0))
    return _of_positives(query, keys) if kind == LabelledKind.POSITIVES else _of_hits(query, keys, bounds)


def _margin(keys: Keys) -> float:
    """The difference of the scores of a triplet's documents: a number, or the two scores."""
    name = keys.name(MARGIN)
    if not isinstance(keys.row.get(name), list):
        return grade_of(keys.row, name)
    high, low = keys.numbers((name,), 2) or (None, None)
    if high is None or low is None:
        raise BadLine(f"{shown(name)} must be a list of numbers")
    return high - low


def _of_positives(query: str, keys: Keys) -> Labelled:
    """Positives and negatives; where all documents of the query are listed, those that are not positive are negative."""
    positives, negatives = keys.both_sides()
    known = {text.strip() for text in (*positives, *negatives)}
    negatives += tuple(text for text in dict.fromkeys(keys.texts(POOL)) if text.strip() not in known)
    if not positives and not negatives:
        raise BadLine("there is neither a positive nor a negative; remove the query")
    return Labelled(query, (*positives, *negatives), (1.0,) * len(positives) + (0.0,) * len(negatives))


def _of_hits(query: str, keys: Keys, bounds: LabelBounds) -> Labelled:
    """Hits with labels, or documents beside a list of labels. Of two labels of a document the higher one counts."""
    found: dict[str, float] = {}
    for text, label, where in _hits(keys) if keys.find(("hits",)) else _beside_labels(keys):
        checked = bounds.checked(label, where)
        if found.setdefault(text, checked) != checked:
            keys.notes.append("a document has two labels for its query; the higher one is taken")
        found[text] = max(checked, found[text])
    return Labelled(query, tuple(found), tuple(found.values()))


def _hits(keys: Keys) -> Iterator[tuple[str, float, str]]:
    hits = objects_of(keys.row, "hits")
    if not hits:
        raise BadLine('"hits" is empty; remove the query')
    for index, hit in enumerate(hits):
        inner = Keys(hit, f"hits[{index}]: ")
        yield inner.document(DOCUMENT), grade_of(inner.row, inner.name(("label",)), inner.where), inner.where
        keys.inner("hits", inner)


def _beside_labels(keys: Keys) -> Iterator[tuple[str, float, str]]:
    texts = keys.texts(POOL)
    name = keys.name(LABELS)
    labels = keys.numbers((name,), len(texts))
    if not texts or labels is None:
        raise BadLine('there are no labelled documents; give "hits", or "documents" and as many "labels"')
    for place, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if label is None:
            raise BadLine(f"{name}[{place}] is null; give every document a label")
        yield text, label, f"{name}[{place}]: "


def _of_scored(one: ScoredList) -> Labelled:
    """The documents that have a teacher score."""
    hits = zip(one.documents, one.scores, one.labels, strict=True)
    known = [(text, score, grade) for text, score, grade in hits if score is not None]
    documents, labels, grades = zip(*known, strict=True) if known else ((), (), ())
    return Labelled(one.query, documents, labels, grades=grades, unscored=len(one.documents) - len(known))
