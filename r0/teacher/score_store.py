"""``queries.jsonl`` of ``distill score``: one line per scored query, appended as it finishes.

A line has ``key`` (a hash of the query and its documents, in hexadecimal), ``scores`` (the raw logits in the documents'
order, null if missing), ``failures`` (number of documents by failure), ``prompt_tokens``, ``new_tokens`` and ``refused``: why
the query does not fit the prompt; usually empty. An interrupted run resumes from it.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from r0.errors import UserError
from r0.rerank.job import Outcome
from r0.storage.resumable_jsonl import ResumableJsonl, Row

FIELDS = {"key", "scores", "failures", "prompt_tokens", "new_tokens", "refused"}


class ScoreStore(ResumableJsonl[int]):
    """The scored queries of a run by the hash of their lists, in the file at ``path``.

    Args:
        path: the file.
        keys: hashes of the lists to score.

    Raises:
        UserError: the file is damaged, or belongs to other data.
    """

    def __init__(self, path: Path, keys: Set[int]):
        self._keys = keys
        super().__init__(path)

    def add(self, key: int, documents: int, outcome: Outcome) -> None:
        """Store the scores of a list with this number of documents; they are on disk when this returns."""
        scores: list[float | None] = [None] * documents
        for question, reply in outcome.replies:
            scores[question.documents[0]] = reply.logit
        self.append(
            {
                "key": f"{key:016x}",
                "scores": scores,
                "failures": outcome.failures,
                "prompt_tokens": outcome.prompt_tokens,
                "new_tokens": outcome.new_tokens,
                "refused": outcome.refused,
            }
        )

    def key_of(self, row: Row) -> int:
        """The hash of a line's list.

        Raises:
            UserError: the data does not contain the list.
        """
        if row.keys() != FIELDS:
            raise KeyError("key")
        key = int(row["key"], 16)
        if key not in self._keys:
            raise UserError(
                "the data does not contain this query with these documents; give the data that was scored, or start over with "
                "fresh=true"
            )
        return key
