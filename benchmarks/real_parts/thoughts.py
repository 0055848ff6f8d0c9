"""Thoughts by a rule: what a document is about, in its own first words. They leave the verdict to the answer.

Longer ones, which state or quote evidence, were tried too; the model ranked worse behind them (docs/real.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r0.storage.files import json_line, write_atomic

WORDS = 8  # of a document in a thought, at most


@dataclass(frozen=True)
class Asked:
    """A query with judged documents: texts."""

    query: str
    relevant: Sequence[str]
    others: Sequence[str]


def thought(document: str) -> str:
    """The thought about a document. Its title, if it has one, is its first sentence."""
    return f"The document is about {' '.join(document.partition('. ')[0].split()[:WORDS]).rstrip('.')}."


def write_log(path: Path, asked: Iterable[Asked]) -> None:
    """Write a raw log for ``convert``: a row for each relevant document, the first with all others."""
    rows = []
    for one in asked:
        for place, document in enumerate(one.relevant):
            rejected = [{"document": other, "thinking": thought(other)} for other in one.others if not place]
            row = {"query": one.query, "response": document, "response_thinking": thought(document)}
            rows.append(json_line({**row, "rejected_response": rejected}))
    write_atomic(path, rows)
