"""Thoughts by a rule: what a document is about, which rare words of the query it has, and which it lacks. They state evidence and
leave the verdict to the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r0.evaluation.words import words
from r0.storage.files import json_line, write_atomic

COMMON = 0.1  # share of the documents, or of the queries, above which a word says nothing
NAMED = 3  # words of a kind in a thought, the rarest ones
ABOUT = 6  # words that say what a document is about: its first ones


@dataclass(frozen=True)
class Asked:
    """A query with judged documents: texts."""

    query: str
    relevant: Sequence[str]
    others: Sequence[str]


class Thoughts:
    """Writes thoughts.

    Args:
        queries, documents: texts, which tell rare words from common ones.
    """

    def __init__(self, queries: Sequence[str], documents: Sequence[str]):
        self._frequency = _frequency(documents)
        self._common = {word for counts in (_frequency(queries), self._frequency) for word in counts if counts[word] > COMMON}

    def of(self, query: str, document: str) -> str:
        """The thought about a document."""
        there = _words(document)
        named = {word.lower(): word for word in words(query) if word.lower() not in self._common}
        rare = sorted(named, key=lambda word: self._frequency.get(word, 0.0))
        found, missing = ([named[word] for word in rare if (word in there) == has][:NAMED] for has in (True, False))
        about = " ".join(document.partition(". ")[0].split()[:ABOUT]).rstrip(".")
        return f"The document is about {about}. It has {_listed(found)} of the query and lacks {_listed(missing)}."

    def write_log(self, path: Path, asked: Iterable[Asked]) -> None:
        """Write a raw log for ``convert``: a row for each relevant document, the first with all others."""
        rows = []
        for one in asked:
            for place, document in enumerate(one.relevant):
                rejected = [{"document": other, "thinking": self.of(one.query, other)} for other in one.others if not place]
                row = {"query": one.query, "response": document, "response_thinking": self.of(one.query, document)}
                rows.append(json_line({**row, "rejected_response": rejected}))
        write_atomic(path, rows)


def _frequency(texts: Sequence[str]) -> dict[str, float]:
    """By word, the share of the texts that have it."""
    counts = Counter(word for text in texts for word in _words(text))
    return {word: count / len(texts) for word, count in counts.items()}


def _words(text: str) -> set[str]:
    return {word.lower() for word in words(text)}


def _listed(named: Sequence[str]) -> str:
    return ", ".join(named) if named else "nothing"
