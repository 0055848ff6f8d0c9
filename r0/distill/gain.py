"""The gain of a student: MAP, MRR@10 and nDCG@10 before and after training, compared with the teacher; and the table of it.

Measured by ``r0.evaluation.measures`` (trec_eval), as in ``eval``. trec_eval breaks ties by document id; the ids here are
shuffled by a hash of the query, so that the file's order (often positives first) has no influence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from r0.data.hashes import hash_key, query_hash, shuffled
from r0.data.scored import ScoredList
from r0.errors import UserError
from r0.evaluation.measures import Grades, Measured, Run, measure
from r0.evaluation.significance import p_value

MEASURES = ("MAP", "MRR@10", "nDCG@10")
Form = Literal["text", "markdown", "json"]


@dataclass(frozen=True)
class JudgedLists:
    """The labelled test lists; ``left_out`` counts queries that were trained on."""

    lists: tuple[ScoredList, ...]
    grades: Grades
    left_out: int

    @classmethod
    def of(cls, lists: Iterable[ScoredList], seen: frozenset[int] = frozenset()) -> JudgedLists:
        """The lists without the queries that were trained on (``seen``, by hash); their scores are ignored.

        Raises:
            UserError: no list is left.
        """
        found = list(lists)
        kept = tuple(one for one in found if query_hash(one.query) not in seen)
        if not kept:
            raise UserError(f"test: all {len(found)} queries occur in the training data; give other queries")
        grades = {_query_id(number): _grades(one) for number, one in enumerate(kept)}
        return cls(kept, grades, len(found) - len(kept))

    def measure(self, scored: Iterable[ScoredList], what: str) -> Measured:
        """Measure a model by its scores of the same lists, in any order. Documents without a score are ranked last.

        Raises:
            UserError: the scores belong to other queries or documents.
        """
        by_query = {(one.query, one.documents): one.scores for one in scored}
        run: Run = {}
        for number, one in enumerate(self.lists):
            scores = by_query.get((one.query, one.documents))
            if scores is None:
                raise UserError(
                    f"{what}: has no scores of the query {one.query[:60]!r} with its {len(one.documents)} documents; give the "
                    "scores of this test file"
                )
            least = min((score for score in scores if score is not None), default=0.0)
            filled = [least - 1 if score is None else score for score in scores]
            run[_query_id(number)] = dict(zip(_document_ids(one), filled, strict=True))
        return measure(run, self.grades)


@dataclass(frozen=True)
class Gain:
    """The measures of the models on one test. ``before`` is None if the student was not scored before training."""

    after: Measured
    before: Measured | None = None
    teacher: Measured | None = None
    notes: tuple[str, ...] = field(default=())

    def rows(self) -> list[dict[str, float | str | None]]:
        """One row per measure: before, after, absolute and relative gain, p of a paired t-test, the teacher's value, and the
        share reached of it.
        """
        found = []
        for name in MEASURES:
            after, before, teacher = (None if one is None else one.mean(name) for one in (self.after, self.before, self.teacher))
            row: dict[str, float | str | None] = {"measure": name, "before": before, "after": after}
            if self.before is not None and before is not None and after is not None:
                row |= {"absolute": after - before, "relative": after / before - 1 if before else None}
                row["p"] = p_value(self.after.values[name], self.before.values[name], "t")
            if teacher is not None and after is not None:
                row |= {"teacher": teacher, "of_teacher": after / teacher if teacher else None}
            found.append(row)
        return found


def render(gain: Gain, form: Form) -> str:
    """The table in one of the three formats, ending with a line break."""
    rows = gain.rows()
    if form == "json":
        return json.dumps({"measures": rows, "notes": gain.notes}, ensure_ascii=False, indent=2) + "\n"
    shapes = {
        "before": "{:.4f}", "after": "{:.4f}", "absolute": "{:+.4f}", "relative": "{:+.2%}", "p": "{:.4f}", "teacher": "{:.4f}",
        "of_teacher": "{:.1%}",
    }  # fmt: skip
    names = [name for name in shapes if any(row.get(name) is not None for row in rows)]
    head = ["", *(name.replace("_", " ") for name in names)]
    table = [head, *([str(row["measure"]), *(_cell(row, name, shapes[name]) for name in names)] for row in rows)]
    if form == "markdown":
        lines = [f"| {' | '.join(row)} |" for row in table]
        lines.insert(1, "|".join(["", "---", *["---:"] * len(names), ""]))
        return "\n".join([*lines, "", *(f"- {note}" for note in gain.notes), ""])
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table]
    return "\n".join([*lines, "", *gain.notes, ""])


def _cell(row: Mapping[str, float | str | None], name: str, shape: str) -> str:
    value = row.get(name)
    if name == "p" and isinstance(value, float) and value < 0.0001:
        return "<0.0001"
    return "" if value is None else shape.format(value)


def _grades(one: ScoredList) -> dict[str, float]:
    """Grades by document id."""
    return dict(zip(_document_ids(one), one.labels, strict=True))


def _document_ids(one: ScoredList) -> list[str]:
    """[N] ids of equal length, because trec_eval compares them as strings."""
    count = len(one.documents)
    return [f"{place:0{len(str(count))}}" for place in shuffled(count, hash_key("ties", one.query))]


def _query_id(number: int) -> str:
    return f"q{number}"
