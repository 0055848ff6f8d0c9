"""``queries.jsonl`` of ``distill score``: a line for every query that the teacher has scored, appended as it is done.

A line holds ``key`` (a hash of the query and its documents, in hexadecimal), ``scores`` (the raw logits in the documents' order,
null where the teacher gave none), ``failures`` (documents by the name of what failed), ``prompt_tokens``, ``new_tokens`` and
``refused``: why the query could not be shown to the teacher, mostly empty. An interrupted run goes on from it.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Self

from r0.errors import UserError
from r0.rerank.job import Outcome
from r0.storage.resumable_jsonl import ResumableJsonl, Row

FIELDS = {"key", "scores", "failures", "prompt_tokens", "new_tokens", "refused"}


class ScoreStore:
    """The scored queries of a run, in its file at ``path``. A context manager.

    Args:
        path: the file.
        keys: hashes of the lists that are to be scored.

    Raises:
        UserError: the file is damaged, or of other data.
    """

    def __init__(self, path: Path, keys: Set[int]):
        self._keys = keys
        self._lines = ResumableJsonl(path, self._key)

    def __contains__(self, key: int) -> bool:
        return key in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, key: int) -> Row:
        """The line of a list by its hash."""
        return self._lines[key]

    def add(self, key: int, documents: int, outcome: Outcome) -> None:
        """Keep the scores of a list of so many documents: they are on the disk when this returns."""
        scores: list[float | None] = [None] * documents
        for question, reply in outcome.replies:
            scores[question.documents[0]] = reply.logit
        self._lines.add(
            {
                "key": f"{key:016x}",
                "scores": scores,
                "failures": outcome.failures,
                "prompt_tokens": outcome.prompt_tokens,
                "new_tokens": outcome.new_tokens,
                "refused": outcome.refused,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.close()

    def _key(self, row: Row) -> int:
        """The hash of a line's list.

        Raises:
            UserError: the data has no such list.
        """
        if row.keys() != FIELDS:
            raise KeyError("key")
        key = int(row["key"], 16)
        if key not in self._keys:
            raise UserError(
                "these scores are of a query, or of documents, that the data does not have; give the data that was scored, or "
                "start over with fresh=true"
            )
        return key
