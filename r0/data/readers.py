"""Parses the rows of a JSONL file of tasks, and detects the kind of a file.

Pointwise: ``{"query", "document", "label"}`` and, for a thought to imitate, ``"think"`` and ``"answer"`` (``"yes"`` or
``"no"``). Grouped: ``{"query", "hits": [{"content", "label"}, …]}`` and, for lists, ``"think"`` and ``"answer"`` to imitate,
which number the hits from 1. rank_llm requests: see ``r0.data.requests``. Query and documents may have the names of
``row_keys``; other fields are not read, and noted.

For annotation, labels are optional and a raw log (``r0.data.convert``) is accepted: its response is relevant, its rejected
responses are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import isnan, nan
from pathlib import Path
from typing import NamedTuple

from r0.config.commands import SourceKeys
from r0.data.fields import objects_of, text_of, text_or_empty
from r0.data.grades import grade_of
from r0.data.jsonl import BadLine, BadLines, Row, read_lines, shown
from r0.data.row_keys import DOCUMENT, QUERY, Keys
from r0.errors import UserError
from r0.records import Answer


class DataKind(StrEnum):
    """The kind of data that ``data=`` names."""

    BUILTIN = "builtin"
    POINTWISE = "pointwise"
    GROUPED = "grouped"
    REQUESTS = "requests"
    BEIR = "beir"
    RAW_LOG = "raw_log"


@dataclass(frozen=True, slots=True)
class LabelRule:
    """Which labels are allowed, and which are relevant (at least ``threshold``).

    Without a declared range a label is 0 or 1; with one it is any number from ``least`` to ``most``. If labels are
    ``optional`` and one is missing, the grade is NaN and the document counts as not relevant.
    """

    threshold: float = 1.0
    least: float = 0.0
    most: float = 1.0
    declared: bool = False
    optional: bool = False

    @classmethod
    def from_keys(cls, keys: SourceKeys, kind: DataKind, optional: bool = False) -> LabelRule:
        """The rule declared by the configuration. If judgements are in a separate file, any grade is allowed.

        Raises:
            UserError: no label of the range would be relevant, or all would be.
        """
        least = 0.0 if keys.min_label is None else keys.min_label
        most = max(1.0, least + 1.0) if keys.max_label is None else keys.max_label
        declared = keys.min_label is not None or keys.max_label is not None
        if least >= most:
            raise UserError(f"min_label: {least:g} is not below max_label={most:g}; give the lowest and the highest grade")
        if kind in (DataKind.BUILTIN, DataKind.RAW_LOG) or (kind in (DataKind.BEIR, DataKind.REQUESTS) and not declared):
            return cls(keys.relevance_threshold, least, most, declared, optional)
        if not least < keys.relevance_threshold <= most:
            raise UserError(
                f"relevance_threshold: {keys.relevance_threshold:g} is not above the lowest label {least:g} and at most the "
                f"highest label {most:g}; declare the range with min_label= and max_label="
            )
        return cls(keys.relevance_threshold, least, most, declared, optional)

    def grade(self, row: Row, where: str = "") -> float:
        """The label of a row.

        Raises:
            BadLine: the label is missing, not a number, or outside the range.
        """
        if self.optional and row.get("label") is None:
            return nan
        label = grade_of(row, "label", where)
        if not self.least <= label <= self.most:
            remedy = "" if self.declared else "; graded labels need min_label= and max_label="
            raise BadLine(f"{where}the label {label:g} is outside {self.least:g} to {self.most:g}{remedy}")
        if not self.declared and label not in (0, 1):
            raise BadLine(f"{where}the label {label:g} is neither 0 nor 1; graded labels need min_label= and max_label=")
        return label


class Judged(NamedTuple):
    """One (query, document) pair of a row, with its thought, if any."""

    query: str
    document: str
    grade: float
    relevant: bool
    think: str = ""


def pointwise(keys: Keys, rule: LabelRule) -> Judged:
    """Parse a pointwise row.

    Raises:
        BadLine: a field is missing or invalid, or ``answer`` contradicts ``label``.
    """
    query, document = keys.text(QUERY), keys.document(("document", *DOCUMENT))
    keys.ignore("label", "think", "answer")
    grade = rule.grade(keys.row)
    relevant = grade >= rule.threshold
    think = text_or_empty(keys.row, "think")
    if "answer" in keys.row:
        answer = keys.row["answer"]
        if answer not in (Answer.YES.value, Answer.NO.value):
            raise BadLine(f'"answer" must be "yes" or "no", not {shown(answer)}')
        if (answer == Answer.YES) != relevant and not isnan(grade):
            raise BadLine(f'the answer "{answer}" contradicts the label {grade:g} (relevant is at least {rule.threshold:g})')
    return Judged(query, document, grade, relevant, think)


def grouped(keys: Keys, rule: LabelRule) -> list[Judged]:
    """The hits of a grouped row, in order.

    Raises:
        BadLine: a field is missing or invalid, or there are no hits.
    """
    query, hits = keys.text(QUERY), objects_of(keys.row, "hits")
    keys.ignore("hits", "think", "answer")
    if not hits:
        raise BadLine('"hits" is empty')
    found = []
    for index, hit in enumerate(hits):
        inner = Keys(hit, f"hits[{index}]: ")
        document, grade = inner.document(DOCUMENT), rule.grade(inner.row, inner.where)
        found.append(Judged(query, document, grade, grade >= rule.threshold))
        inner.ignore("label")
        keys.inner("hits", inner)
    return found


def list_thought(row: Row) -> tuple[str, str]:
    """(thought, answer) of a grouped row, stripped; empty strings if missing.

    Raises:
        BadLine: one of them is not a string, or the answer is blank.
    """
    return text_or_empty(row, "think").strip(), text_of(row, "answer").strip() if row.get("answer") is not None else ""


def raw_log_pairs(keys: Keys) -> list[Judged]:
    """The documents of a line of a raw log: the response, then the rejected ones. Their thoughts are ignored.

    Raises:
        BadLine: a field is missing or invalid.
    """
    query, response = keys.text(("query",)), keys.text(("response",))
    keys.ignore("response_thinking", "rejected_response")
    rejected = enumerate(objects_of(keys.row, "rejected_response"))
    others = [text_of(inner, "document", f"rejected_response[{index}]: ") for index, inner in rejected]
    return [Judged(query, response, 1.0, True), *(Judged(query, document, 0.0, False) for document in others)]


def judged(keys: Keys, kind: DataKind, rule: LabelRule) -> list[Judged]:
    """The pairs of a row of the given kind: one, one per hit, or one per document of the log."""
    if kind == DataKind.RAW_LOG:
        return raw_log_pairs(keys)
    return grouped(keys, rule) if kind == DataKind.GROUPED else [pointwise(keys, rule)]


def kind_of_file(path: Path, skip_bad: bool, raw_log: bool = False) -> DataKind:
    """Detect by its first valid line whether a JSONL file holds pointwise rows, grouped rows, requests or (if allowed) a raw
    log.

    Raises:
        UserError: none of them (a BEIR corpus, something else), or no line at all.
    """
    for line in read_lines(path, BadLines(skip_bad)):
        keys = line.row.keys()
        if "hits" in keys:
            return DataKind.GROUPED
        if "candidates" in keys:
            return DataKind.REQUESTS
        if keys & set(QUERY) and keys & set(DOCUMENT):
            return DataKind.POINTWISE
        if keys & {"response", "rejected_response"}:
            if raw_log:
                return DataKind.RAW_LOG
            raise UserError(f"{path}: this is a raw log; first run `convert {path} ROWS.jsonl`, then data=ROWS.jsonl")
        if "_id" in keys:
            raise UserError(f"{path}: this looks like a file of a BEIR folder; give the folder, and run= for the candidates")
        wanted = (
            '"query", "document", "label" (pointwise), "query", "hits" (grouped) or "query", "candidates" (rank_llm requests)'
        )
        if not skip_bad:
            raise UserError(f"{path}:{line.number}: not a row of tasks; fields must be {wanted}, found {shown(sorted(keys))}")
    raise UserError(f"{path}: contains no rows; give a file with at least one row of tasks")
