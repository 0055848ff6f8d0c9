"""``annotations.jsonl``: one line per finished pair, appended as it finishes; an interrupted run resumes from it.

A line has ``pair`` (the pair's key, 16 hex digits), ``known`` (its label as an answer, or null), ``kept`` (whether the last
sample is the pair's annotation; all earlier ones were rejected), ``prompt_tokens``, ``cut_tokens`` (tokens of the document
that did not fit the prompt), ``samples`` in order (``answer``: null if unreadable, ``failures``, ``think_tokens``,
``tokens``, ``think``), and ``refused``: why the pair does not fit the prompt; usually empty.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from r0.errors import UserError
from r0.records import Answer
from r0.rerank.job import Outcome
from r0.rerank.methods import agrees
from r0.storage.resumable_jsonl import ResumableJsonl, Row
from r0.teacher.annotate_pairs import Pairs


class Annotation(NamedTuple):
    """The annotation of a pair."""

    think: str
    answer: Answer


class Annotations(ResumableJsonl[int]):
    """The finished pairs by key, in the file at ``path``.

    Args:
        path: the file.
        pairs: the data.
        seen: called with every line, existing and new.

    Raises:
        UserError: the file is damaged, or belongs to other data.
    """

    SYNC_S = 1.0  # pairs finish too fast to flush each one separately

    def __init__(self, path: Path, pairs: Pairs, seen: Callable[[Row], None]):
        self._pairs, self._seen = pairs, seen
        super().__init__(path)
        for key in self:
            seen(self.row(key))

    def add(self, key: int, known: Answer | None, outcome: Outcome) -> None:
        """Store the outcome of a pair; it is on disk within ``SYNC_S`` seconds, or when the file is closed."""
        row = _row(key, known, outcome)
        self.append(row)
        self._seen(row)

    def kept(self, key: int) -> Annotation | None:
        """The annotation of a finished pair; None if no sample was acceptable."""
        row = self.row(key)
        return Annotation(row["samples"][-1]["think"], Answer(row["samples"][-1]["answer"])) if row["kept"] else None

    def key_of(self, row: Row) -> int:
        """The key of a line's pair.

        Raises:
            UserError: the data does not contain the pair, or has another label for it.
        """
        key = int(row["pair"], 16)
        number = self._pairs.row(key)
        if number is None or self._pairs.known(number) != row["known"]:
            what = "the pair is no longer in the data" if number is None else "the pair now has another label"
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
