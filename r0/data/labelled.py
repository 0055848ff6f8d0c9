"""Labelled documents for supervised fine-tuning: their kinds, bounds of labels, and the built-in ones.

* pointwise: a query, a document and a label. Labels from ``min_label`` to ``max_label`` are scaled to 0 to 1.
* grouped: a query with labelled documents.
* positives: a query with positives (label 1) and negatives (label 0).
* triplets: a query, a positive, a negative and the difference of a teacher's scores (``r0.distill.triplets``). The two documents
  have the labels score_diff and 0.
* scored: groups with a teacher's scores (``r0.data.scored``), which become the labels. Documents without a score are dropped and
  counted.

For triplets and scored groups ``grades`` holds the labels of the data, for validation. ``labelled_rows`` reads them from files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from r0.data.builtin.lists import builtin_list_task
from r0.data.hashes import query_hash
from r0.data.jsonl import BadLine
from r0.errors import UserError
from r0.records import Form

BUILTIN = "builtin"
BUILTIN_DOCUMENTS, BUILTIN_GRADES = 6, 2  # documents per list of the built-in task, and its highest grade
LISTED = ("query", "positives", "negatives")  # the elements of a line that is a list


class LabelledKind(StrEnum):
    """The format of a file's lines."""

    POINTWISE = "pointwise"
    GROUPED = "grouped"
    POSITIVES = "positives"
    TRIPLETS = "triplets"
    SCORED = "scored"


TEACHERS = (LabelledKind.TRIPLETS, LabelledKind.SCORED)  # kinds whose labels are a teacher's


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
