"""``queries.jsonl``: a line for every finished query, appended as it is done. An interrupted run goes on from it.

A line holds ``query_id``, ``documents`` (all ids of the query's candidates in their new order), ``scores`` (of ``documents``,
falling), ``given`` (a hash of the ids in the given order), ``asks``, ``failed`` (asks with any failure), ``failures`` (their
number by name), ``prompt_tokens``, ``new_tokens``, ``seconds`` (from first ask to last reply, others in work at the same time),
``replies``: ``documents`` as they were shown, ``thought``, ``failures``; and ``refused``: why the query could not be shown to the
model and keeps the given order, mostly empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from r0.data.candidates import CandidateLists
from r0.data.hashes import hash_key
from r0.errors import UserError
from r0.rerank.job import Outcome
from r0.rerank.protocol import with_tail
from r0.storage.resumable_jsonl import ResumableJsonl, Row


@dataclass
class Totals:
    """Sums over finished queries."""

    queries: int = 0
    candidates: int = 0
    asks: int = 0
    failed: int = 0  # asks with any failure
    failures: dict[str, int] = field(default_factory=dict)  # asks by the name of what failed
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    refused: list[str] = field(default_factory=list)  # the sentences

    def add(self, row: Row) -> None:
        """Count one query."""
        self.queries += 1
        self.candidates += len(row["documents"])
        for name in ("asks", "failed", "prompt_tokens", "new_tokens", "seconds"):
            setattr(self, name, getattr(self, name) + row[name])
        for name, count in row["failures"].items():
            self.failures[name] = self.failures.get(name, 0) + count
        if row["refused"]:
            self.refused.append(row["refused"])


class Store:
    """The finished queries of a run over ``lists``, in its file at ``path``. A context manager.

    Raises:
        UserError: the file is damaged, or of other candidates.
    """

    def __init__(self, path: Path, lists: CandidateLists):
        self._lists = lists
        self.totals = Totals()
        self._numbers = {lists.query_id(index): index for index in range(len(lists))}
        self._lines = ResumableJsonl(path, self._index)
        for index in self._lines:
            self.totals.add(self._lines[index])

    def __contains__(self, index: int) -> bool:
        """Whether query ``index`` is finished."""
        return index in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, index: int, outcome: Outcome) -> None:
        """Keep the outcome of query ``index``: its line is on the disk when this returns."""
        row = _row(self._lists, index, outcome)
        self._lines.add(row)
        self.totals.add(row)

    def rankings(self) -> Iterator[tuple[str, Sequence[tuple[str, float]]]]:
        """(query id, [(document id, score), … best first]) of the finished queries, in the order of the given run."""
        for index in sorted(self._lines):
            row = self._lines[index]
            yield row["query_id"], list(zip(row["documents"], row["scores"], strict=True))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _index(self, row: Row) -> int:
        """The number of a line's query.

        Raises:
            UserError: the query has other candidates here.
        """
        Totals().add(row)  # has all that is counted
        index = self._numbers.get(row["query_id"])
        if index is None or row["given"] != _given(self._lists, index):
            raise UserError(
                f"query {row['query_id']} has other candidates, or in another order, than when it was reranked; start over "
                "with fresh=true, or give the run that was reranked"
            )
        return index


def _given(lists: CandidateLists, index: int) -> str:
    return f"{hash_key(*lists.document_ids(index)):016x}"


def _row(lists: CandidateLists, index: int, outcome: Outcome) -> Row:
    ids = lists.document_ids(index)
    ranking = with_tail(outcome.ranking, len(ids))
    return {
        "query_id": lists.query_id(index),
        "documents": [ids[position] for position in ranking.order],
        "given": _given(lists, index),
        "scores": [ranking.scores[position] for position in ranking.order],
        "asks": len(outcome.replies),
        "failed": outcome.failed,
        "failures": outcome.failures,
        "prompt_tokens": outcome.prompt_tokens,
        "new_tokens": outcome.new_tokens,
        "seconds": round(outcome.seconds, 3),
        "refused": outcome.refused,
        "replies": [
            {
                "documents": [ids[position] for position in ask.documents],
                "thought": reply.thought,
                "failures": sorted(failure.value for failure in reply.failures),
            }
            for ask, reply in outcome.replies
        ],
    }
