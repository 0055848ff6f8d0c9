"""``annotations.jsonl``: a line for every pair that is done, appended as it is done. An interrupted run goes on from it.

A line holds ``pair`` (the pair's key, 16 hex digits), ``known`` (its label as an answer, or null), ``kept`` (whether the last
sample is the pair's annotation; all before it were rejected), ``prompt_tokens``, ``cut_tokens`` (of the document, which did
not fit the prompt), ``samples`` in their order (``answer``: null where none can be read, ``failures``, ``think_tokens``,
``tokens``, ``think``), and ``refused``: why the pair could not be shown to the model, mostly empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from r0.errors import UserError
from r0.records import Answer
from r0.rerank.job import Outcome
from r0.rerank.methods import agrees
from r0.storage.resumable_jsonl import ResumableJsonl, Row
from r0.teacher.annotate_pairs import Pairs

SYNC_S = 1.0  # seconds after which what was added is brought to the disk


class Annotation(NamedTuple):
    """What was kept of a pair."""

    think: str
    answer: Answer


class Annotations:
    """The pairs that are done, in the file at ``path``. A context manager.

    Args:
        path: the file.
        pairs: the data.
        seen: called with every line, those that are there and those that are added.

    Raises:
        UserError: the file is damaged, or of other data.
    """

    def __init__(self, path: Path, pairs: Pairs, seen: Callable[[Row], None]):
        self.path, self._pairs, self._seen = path, pairs, seen
        self._lines = ResumableJsonl(path, self._key)
        for key in self._lines:
            seen(self._lines[key])
        self._synced = time.monotonic()

    def __contains__(self, key: int) -> bool:
        return key in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, key: int, known: Answer | None, outcome: Outcome) -> None:
        """Keep the outcome of a pair; it is on the disk within moments, or when the file is closed."""
        row = _row(key, known, outcome)
        self._lines.add(row, sync=False)
        self._seen(row)
        if time.monotonic() - self._synced > SYNC_S:
            self._lines.sync()
            self._synced = time.monotonic()

    def kept(self, key: int) -> Annotation | None:
        """What was kept of a pair that is done, if anything was."""
        row = self._lines[key]
        return Annotation(row["samples"][-1]["think"], Answer(row["samples"][-1]["answer"])) if row["kept"] else None

    def close(self) -> None:
        """Bring all to the disk and close the file."""
        self._lines.sync()
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _key(self, row: Row) -> int:
        """The key of a line's pair.

        Raises:
            UserError: the data does not have the pair, or has another label for it.
        """
        key = int(row["pair"], 16)
        number = self._pairs.row(key)
        if number is None or self._pairs.known(number) != row["known"]:
            what = "the data has no such pair any more" if number is None else "the pair has another label now"
            raise UserError(f"{what}; start over with fresh=true, or give the data that was annotated")
        if row["kept"]:
            Answer(row["samples"][-1]["answer"])
        return key


def _row(key: int, known: Answer | None, outcome: Outcome) -> Row:
    replies = [reply for _, reply in outcome.replies]
    return {
        "pair": f"{key:016x}",
        "known": known,
        "kept": bool(replies) and agrees(replies[-1], known),
        "prompt_tokens": outcome.prompt_tokens,
        "cut_tokens": replies[0].cut_tokens if replies else 0,
        "samples": [
            {
                "answer": reply.answer,
                "failures": sorted(failure.value for failure in reply.failures),
                "think_tokens": reply.think_tokens,
                "tokens": reply.tokens,
                "think": reply.thought,
            }
            for reply in replies
        ],
        "refused": outcome.refused,
    }
