"""``queries.jsonl``: one line per finished query, appended as it finishes; an interrupted run resumes from it.

A line has ``query_id``, ``documents`` (all ids of the query's candidates in their new order), ``scores`` (of ``documents``,
decreasing), ``given`` (a hash of the ids in first-stage order), ``asks`` (number of questions), ``failed`` (questions with
any failure), ``failures`` (their number by name), ``prompt_tokens``, ``new_tokens``, ``seconds`` (from the first question to
the last reply, while other queries are in progress), ``replies`` (``documents`` in the order shown, ``thought``,
``failures``), and ``refused``: why the query does not fit the prompt and keeps the first-stage order; usually empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    asks: int = 0  # questions; named as in the file
    failed: int = 0  # questions with any failure
    failures: dict[str, int] = field(default_factory=dict)  # questions by failure
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    refused: list[str] = field(default_factory=list)  # reasons of queries that do not fit the prompt

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


class Store(ResumableJsonl[int]):
    """The finished queries of a run over ``lists`` by number, in the file at ``path``, and sums over them.

    Raises:
        UserError: the file is damaged, or belongs to other candidates.
    """

    def __init__(self, path: Path, lists: CandidateLists):
        self._lists, self.totals = lists, Totals()
        self._numbers = {lists.query_id(index): index for index in range(len(lists))}
        super().__init__(path)
        for index in self:
            self.totals.add(self.row(index))

    def add(self, index: int, outcome: Outcome) -> None:
        """Store the outcome of query ``index``; its line is on disk when this returns."""
        row = _row(self._lists, index, outcome)
        self.append(row)
        self.totals.add(row)

    def rankings(self) -> Iterator[tuple[str, Sequence[tuple[str, float]]]]:
        """(query id, [(document id, score), … best first]) of the finished queries, in the order of the first-stage run."""
        for index in sorted(self):
            row = self.row(index)
            yield row["query_id"], list(zip(row["documents"], row["scores"], strict=True))

    def key_of(self, row: Row) -> int:
        """The number of a line's query.

        Raises:
            UserError: the query has other candidates in this run.
        """
        Totals().add(row)  # raises if a field is missing
        index = self._numbers.get(row["query_id"])
        if index is None or row["given"] != _given(self._lists, index):
            raise UserError(
                f"query {row['query_id']} had other candidates, or another order of them, when it was reranked; start over "
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
                "documents": [ids[position] for position in question.documents],
                "thought": reply.thought,
                "failures": sorted(failure.value for failure in reply.failures),
            }
            for question, reply in outcome.replies
        ],
    }
