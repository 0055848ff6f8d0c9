"""What the keys of labelled rows are called in other tools, and rows whose keys are ticked off as they are read.

Names: r0, sentence-transformers, FlagEmbedding, MTEB, MIRACL, Tevatron, RAG-Retrieval. A text is a string, or an object with a
title and a text (MIRACL's and Tevatron's passages). Null is as good as missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from r0.data.fields import text_of, text_or_empty, with_title
from r0.data.jsonl import BadLine, BadLines, Row, shown

QUERY = ("query", "anchor", "question", "sentence1", "sentence_1", "text1")
DOCUMENT = ("content", "document", "passage", "text", "sentence2", "sentence_2", "text2")
LABEL = ("label", "score", "grade", "relevance")
POSITIVES = ("positives", "pos", "positive", "positive_passages")
NEGATIVES = ("negatives", "neg", "negative", "negative_passages", "hard_negatives")
POOL = ("documents", "candidates", "docs", "passages")  # of all documents of a query, the positives among them
LABELS = ("labels", "scores")
CONTRADICTION = "a text is both positive and negative of its query; it is kept as a positive"
MARGIN = ("score_diff", "margin", *LABEL)
_TEACHERS = {
    key: f'the key "{key}" is not read; data_type=scored of finetune learns from it' for key in ("pos_scores", "neg_scores")
}
_NUMBERED = re.compile(r"(negatives?|neg)_?(\d+)")


class Keys:
    """A row without its nulls; ``left`` has the keys that nobody has read, ``notes`` what else a person should know."""

    def __init__(self, row: Row, where: str = ""):
        self.row: Row = {name: value for name, value in row.items() if value is not None} if None in row.values() else row
        self.where, self.left, self.notes = where, set(self.row), list[str]()
        self._given = row  # to say null where a text is null

    def tell(self, bad: BadLines, path: Path) -> None:
        """Note what was not read of the row of a file, and the notes."""
        if not self.left and not self.notes:
            return
        bad.unread(path, self.left - _TEACHERS.keys())
        for note in (*self.notes, *(_TEACHERS[key] for key in sorted(self.left & _TEACHERS.keys()))):
            bad.note(path, note)

    def find(self, names: Sequence[str]) -> str | None:
        """The first of ``names`` that the row has; it counts as read."""
        for name in names:
            if name in self.row:
                self.left.discard(name)
                return name
        return None

    def name(self, names: Sequence[str]) -> str:
        """As ``find``; the first of ``names`` if the row has none, for the message that it is missing."""
        return self.find(names) or names[0]

    def ignore(self, *names: str) -> None:
        """Count keys as read."""
        self.left.difference_update(names)

    def inner(self, name: str, inner: Keys) -> None:
        """Add the keys of an object inside the row that were not read."""
        self.left |= {f"{name}.{key}" for key in inner.left}

    def text(self, names: Sequence[str]) -> str:
        """The text at the first of ``names``.

        Raises:
            BadLine: there is none, or it is no text or blank.
        """
        name = self.name(names)
        return text_of(self.row if name in self.row else self._given, name, self.where)

    def document(self, names: Sequence[str]) -> str:
        """The text at the first of ``names``, behind the title of the row.

        Raises:
            BadLine: there is none, or it is no text or blank.
        """
        if self.find(("title",)) is None:
            return self.text(names)
        return with_title(text_or_empty(self.row, "title", self.where), self.text(names))

    def texts(self, names: Sequence[str]) -> tuple[str, ...]:
        """The texts at the first of ``names``: one, or a list of them; none if the row has none of the names.

        Raises:
            BadLine: one is no text or blank.
        """
        key = self.find(names)
        if key is None:
            return ()
        value = self.row[key]
        return tuple(self._text(one, key) for one in (value if isinstance(value, list) else [value]))

    def negatives(self) -> tuple[str, ...]:
        """The texts of all keys of negatives, numbered ones (``negative_1``) in their order.

        Raises:
            BadLine: one is no text or blank.
        """
        return tuple(text for names in (NEGATIVES, *((name,) for name in self.numbered())) for text in self.texts(names))

    def numbered(self) -> list[str]:
        """The keys of numbered negatives in order."""
        found = {int(match[2]): name for name in self.row if (match := _NUMBERED.fullmatch(name))}
        return [found[number] for number in sorted(found)]

    def both_sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The positives and the negatives, each text once. A text on both sides is a positive, and that is noted.

        Raises:
            BadLine: one is no text or blank.
        """
        positives = {text.strip(): text for text in reversed(self.texts(POSITIVES))}
        negatives = {text.strip(): text for text in reversed(self.negatives())}
        self.notes += [CONTRADICTION] * len(positives.keys() & negatives.keys())
        others = [text for key, text in negatives.items() if key not in positives]
        return tuple(positives.values())[::-1], tuple(others)[::-1]

    def numbers(self, names: Sequence[str], size: int) -> list[float | None] | None:
        """The ``size`` numbers, or nulls, at the first of ``names``; None if the row has none of them.

        Raises:
            BadLine: they are no list of numbers, or too few or too many.
        """
        key = self.find(names)
        if key is None:
            return None
        value = self.row[key]
        if not isinstance(value, list) or not all(one is None or _is_number(one) for one in value):
            raise BadLine(f"{shown(key)} must be a list of numbers")
        if len(value) != size:
            raise BadLine(f"{shown(key)} has {len(value)} numbers for {size} texts")
        return [None if one is None else float(one) for one in value]

    def _text(self, value: object, key: str) -> str:
        if isinstance(value, dict):
            inner = Keys(value, f"{key}: ")
            inner.ignore("docid", "_id", "id")
            found = inner.document(("text", *DOCUMENT))
            self.inner(key, inner)
            return found
        if not isinstance(value, str) or not value.strip():
            raise BadLine(f"{shown(key)} must be a list of non-blank strings")
        return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
