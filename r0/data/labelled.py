"""Labelled documents for supervised fine-tuning: the formats of a line, and detection of a file's format.

* pointwise: ``{"query", "content" (or "document"), "label"}``. Labels from ``min_label`` to ``max_label`` are scaled to 0 to
  1.
* grouped: ``{"query", "hits": [{"content" (or "document"), "label"}, …]}``, with at least two hits and two different labels.
* positives: ``["query", [positives], [negatives]]`` or ``{"query", "positives", "negatives"}``, also with the names ``pos``
  and ``neg``, or ``positive`` and ``negative`` (MTEB's reranking sets). Positives have label 1, negatives label 0.
* triplets: ``{"query", "positive", "negative", "score_diff"}`` with the difference of a teacher's scores
  (``r0.distill.triplets``). The two documents have the labels score_diff and 0.
* scored: groups with a teacher's scores (``r0.data.scored``), which become the labels. Hits without a score are dropped and
  counted.

For triplets and scored groups ``grades`` holds the labels of the data, for validation. Other fields are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from r0.data.builtin.lists import builtin_list_task
from r0.data.hashes import query_hash
from r0.data.jsonl import BadLine, BadLines, Row, number_of, objects_of, read_lines, readable_file, shown, text_of
from r0.data.scored import ScoredList, scored_list
from r0.errors import UserError
from r0.records import Form

BUILTIN = "builtin"
BUILTIN_DOCUMENTS, BUILTIN_GRADES = 6, 2  # documents per list of the built-in task, and its highest grade
LISTED = ("query", "positives", "negatives")  # the elements of a line that is a list
POSITIVES, NEGATIVES = ("positives", "pos", "positive"), ("negatives", "neg", "negative")  # accepted key names


class LabelledKind(StrEnum):
    """The format of a file's lines."""

    POINTWISE = "pointwise"
    GROUPED = "grouped"
    POSITIVES = "positives"
    TRIPLETS = "triplets"
    SCORED = "scored"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A query with documents [N] and their labels [N]; ``place`` is its location (file:line).

    If the labels come from a teacher, ``grades`` [N] are the labels of the data, and ``unscored`` is the number of documents
    without a score.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    place: str = ""
    grades: tuple[float, ...] = ()
    unscored: int = 0


@dataclass(frozen=True, slots=True)
class LabelBounds:
    """The allowed labels. Labels of pointwise rows are scaled to 0 to 1; labels in groups are kept."""

    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        least, most = self._of_rows()
        if least >= most:
            raise UserError(f"min_label: {least:g} is not below max_label={most:g}; give the lowest and the highest label")

    def _of_rows(self) -> tuple[float, float]:
        least = 0.0 if self.least is None else self.least
        return least, (max(1.0, least + 1.0) if self.most is None else self.most)

    def scaled(self, label: float) -> float:
        """A row's label scaled to [0, 1].

        Raises:
            BadLine: the label is outside the bounds.
        """
        least, most = self._of_rows()
        if not least <= label <= most:
            raise BadLine(f"the label {label:g} is outside {least:g} to {most:g}; declare the range: min_label=, max_label=")
        return (label - least) / (most - least)

    def checked(self, label: float, where: str) -> float:
        """A hit's label, unchanged.

        Raises:
            BadLine: the label is outside the declared bounds.
        """
        if (self.least is not None and label < self.least) or (self.most is not None and label > self.most):
            bounds = " to ".join("…" if bound is None else f"{bound:g}" for bound in (self.least, self.most))
            raise BadLine(f"{where}the label {label:g} is outside {bounds}; correct it, or min_label= and max_label=")
        return label


def labelled(row: Row, kind: LabelledKind, bounds: LabelBounds) -> Labelled:
    """Parse a line.

    Raises:
        BadLine: a field is missing or invalid, there are too few documents, or all labels are equal.
    """
    query = text_of(row, "query")
    if kind == LabelledKind.POINTWISE:
        return Labelled(query, (_document(row),), (bounds.scaled(number_of(row, "label")),))
    if kind == LabelledKind.POSITIVES:
        positives, negatives = _texts(row, POSITIVES), _texts(row, NEGATIVES)
        if not positives:
            raise BadLine("there is no positive; remove the query, since nothing can be learned from it")
        return Labelled(query, (*positives, *negatives), (1.0,) * len(positives) + (0.0,) * len(negatives))
    if kind == LabelledKind.TRIPLETS:
        documents = text_of(row, "positive"), text_of(row, "negative")
        return Labelled(query, documents, (number_of(row, "score_diff"), 0.0), grades=(1.0, 0.0))
    if kind == LabelledKind.SCORED:
        return _of_scored(scored_list(row))
    hits = objects_of(row, "hits")
    if len(hits) < 2:
        raise BadLine(f"{len(hits)} of at least 2 hits; remove the group, or use pointwise rows")
    found = []
    for index, hit in enumerate(hits):
        where = f"hits[{index}]: "
        found.append((_document(hit, where), bounds.checked(number_of(hit, "label", where), where)))
    documents, labels = zip(*found, strict=True)
    if len(set(labels)) == 1:
        raise BadLine(f"all {len(hits)} hits have the label {labels[0]:g}, so there is no order to learn; remove the group")
    return Labelled(query, documents, labels)


def read_labelled(path: Path, kind: LabelledKind, bounds: LabelBounds, bad: BadLines, title: str = "") -> Iterator[Labelled]:
    """The lines of a file in order; bad lines go to ``bad``.

    Raises:
        UserError: the file cannot be read, or a line is bad and ``bad`` does not skip.
    """
    for line in read_lines(path, bad, title, LISTED):
        try:
            found = labelled(line.row, kind, bounds)
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        yield replace(found, place=f"{path}:{line.number}")


def kind_of_labelled(path: Path, skip_bad: bool, hits: LabelledKind = LabelledKind.GROUPED) -> LabelledKind:
    """Detect the format of a file by its first valid line; ``hits`` is the kind of lines with hits.

    Raises:
        UserError: no known format, or no line at all.
    """
    readable_file(path, "a JSONL file of labelled documents")
    for line in read_lines(path, BadLines(skip_bad), "", LISTED):
        keys = line.row.keys()
        if "hits" in keys:
            return hits
        if "score_diff" in keys:
            return LabelledKind.TRIPLETS
        if keys & set(POSITIVES):
            return LabelledKind.POSITIVES
        if "label" in keys and keys & {"content", "document"}:
            return LabelledKind.POINTWISE
        if not skip_bad:
            wanted = '"query", "content", "label" (pointwise), "query", "hits" (grouped) or "query", "positives", "negatives"'
            raise UserError(f"{path}:{line.number}: not labelled documents; fields must be {wanted}, found {shown(sorted(keys))}")
    raise UserError(f"{path}: contains no labelled documents; give a file with at least one valid line")


def epoch_files(name: str) -> list[Path]:
    """The files named by ``name``: one file, or, if it contains ``{}``, the files with 1, 2, … in its place, one per epoch.

    Raises:
        UserError: ``{}`` is used and the file with 1 does not exist.
    """
    if "{}" not in name:
        return [Path(name).expanduser()]
    found: list[Path] = []
    while (path := Path(name.replace("{}", str(len(found) + 1))).expanduser()).is_file():
        found.append(path)
    if not found:
        raise UserError(f"data: {path} does not exist; {{}} is replaced by the epoch, from 1, as in the files that `mine` writes")
    return found


def builtin_labelled(kind: LabelledKind, seed: int, indices: range) -> Iterator[Labelled]:
    """Lists of the built-in task in the format ``kind``; with positives, those are the documents of the highest grade."""
    for index in indices:
        task = builtin_list_task(index, seed, Form.PERMUTATION, BUILTIN_DOCUMENTS)
        grades, place = task.label.grades, f"{BUILTIN}:{index}"
        if kind == LabelledKind.GROUPED and len(set(grades)) > 1:
            yield Labelled(task.query, task.documents, grades, place)
        elif kind == LabelledKind.POSITIVES and 0 < grades.count(BUILTIN_GRADES) < len(grades):
            yield Labelled(task.query, task.documents, tuple(float(grade == BUILTIN_GRADES) for grade in grades), place)
        elif kind == LabelledKind.POINTWISE:
            for document, grade in zip(task.documents, grades, strict=True):
                yield Labelled(task.query, (document,), (grade / BUILTIN_GRADES,), place)


class QueryPlaces:
    """The queries seen (normalized as for the split of the data: case and white space are ignored), with the location of the
    first occurrence.
    """

    def __init__(self) -> None:
        self._places: dict[int, str] = {}

    def add(self, one: Labelled) -> None:
        """Add a query."""
        self._places.setdefault(query_hash(one.query), one.place)

    def place(self, query: str) -> str | None:
        """The location where ``query`` was first seen; None if it was not."""
        return self._places.get(query_hash(query))


def _of_scored(one: ScoredList) -> Labelled:
    """The documents that have a teacher score."""
    hits = zip(one.documents, one.scores, one.labels, strict=True)
    known = [(text, score, grade) for text, score, grade in hits if score is not None]
    documents, labels, grades = zip(*known, strict=True) if known else ((), (), ())
    return Labelled(one.query, documents, labels, grades=grades, unscored=len(one.documents) - len(known))


def _document(row: Row, where: str = "") -> str:
    return text_of(row, "document" if "document" in row and "content" not in row else "content", where)


def _texts(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    key = next((name for name in names if name in row), names[0])
    values = row.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise BadLine(f"{shown(key)} must be a list of non-blank strings")
    return tuple(values)
