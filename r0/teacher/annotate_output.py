"""Writes the result of annotation: pointwise rows, or a raw log; atomically, in the order of the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from r0.data.hashes import text_hash
from r0.records import Answer
from r0.storage.files import json_line, write_atomic
from r0.teacher.annotate_pairs import Pairs
from r0.teacher.annotate_store import Annotations

ROWS, RAW_LOG = "rows.jsonl", "raw_log.jsonl"


def write_rows(path: Path, pairs: Pairs, done: Annotations) -> str:
    """Write the kept pairs as ``{"query", "document", "think", "answer", "label"}``; return a printable summary."""
    count = dict.fromkeys(Answer, 0)

    def rows() -> Iterator[bytes]:
        for query, document, think, answer in _kept(pairs, done, pairs):
            count[answer] += 1
            label = int(answer is Answer.YES)
            yield json_line({"query": query, "document": document, "think": think, "answer": answer.value, "label": label})

    write_atomic(path, rows())
    return f"{path}: {sum(count.values())} rows ({count[Answer.YES]} yes, {count[Answer.NO]} no)"


def write_raw_log(path: Path, pairs: Pairs, done: Annotations) -> str:
    """Write the kept pairs as ``{"query", "response", "response_thinking", "rejected_response": [{"document", "thinking"}]}``;
    return a printable summary.

    A line has one relevant document. A query with several has several lines, the first of them with all rejected documents,
    so that ``convert`` restores each pair once. Queries without a relevant document cannot be written.
    """
    by_query: dict[int, list[int]] = {}
    for key in pairs:
        if key in done and done.kept(key) is not None:
            row = pairs.row(key) or 0
            by_query.setdefault(text_hash(pairs.task(row).query), []).append(key)
    written, left = 0, [0, 0]

    def lines() -> Iterator[bytes]:
        nonlocal written
        for keys in by_query.values():
            found = list(_kept(pairs, done, keys))
            rejected = [{"document": one[1], "thinking": one[2]} for one in found if one[3] is Answer.NO]
            relevant = [one for one in found if one[3] is Answer.YES]
            for query, document, think, _ in relevant:
                yield json_line({"query": query, "response": document, "response_thinking": think, "rejected_response": rejected})
                written, rejected = written + 1, []
            if not relevant:
                left[0], left[1] = left[0] + 1, left[1] + len(found)

    write_atomic(path, lines())
    return f"{path}: {written} lines; {left[0]} queries ({left[1]} pairs) have no relevant document, and no place in a raw log"


def _kept(pairs: Pairs, done: Annotations, keys: Iterable[int]) -> Iterator[tuple[str, str, str, Answer]]:
    """(query, document, thought, answer) of the kept pairs."""
    for key in keys:
        annotation = done.kept(key) if key in done else None
        row = pairs.row(key)
        if annotation is not None and row is not None:
            task = pairs.task(row)
            yield task.query, task.document, annotation.think, annotation.answer
