"""``queries.jsonl``: a line for every finished query, appended as it is done. An interrupted run goes on from it.

A line holds ``query_id``, ``documents`` (all ids of the query's candidates in their new order), ``scores`` (of ``documents``,
falling), ``given`` (a hash of the ids in the given order), ``asks``, ``failed`` (asks with any failure), ``failures`` (their
number by name), ``prompt_tokens``, ``new_tokens``, ``seconds`` (from first ask to last reply, others in work at the same time),
``replies``: ``documents`` as they were shown, ``thought``, ``failures``; and ``refused``: why the query could not be shown to the
model and keeps the given order, mostly empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from r0.data.candidates import CandidateLists
from r0.data.hashes import address
from r0.errors import UserError
from r0.files import writing
from r0.rerank.asks import with_tail
from r0.rerank.job import Outcome

Row = dict[str, Any]


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
        self.path, self._lists = path, lists
        self.totals = Totals()
        self._numbers = {lists.query_id(index): index for index in range(len(lists))}
        self._at: dict[int, int] = {}  # number of a finished query → where its line begins, in bytes
        with writing(path):
            self._file = path.open("a+b")
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __contains__(self, index: int) -> bool:
        """Whether query ``index`` is finished."""
        return index in self._at

    def __len__(self) -> int:
        return len(self._at)

    def add(self, index: int, outcome: Outcome) -> None:
        """Keep the outcome of query ``index``: its line is on the disk when this returns."""
        row = _row(self._lists, index, outcome)
        with writing(self.path):
            self._at[index] = self._file.seek(0, os.SEEK_END)
            self._file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        self.totals.add(row)

    def rankings(self) -> Iterator[tuple[str, Sequence[tuple[str, float]]]]:
        """(query id, [(document id, score), … best first]) of the finished queries, in the order of the given run."""
        for _index, offset in sorted(self._at.items()):
            self._file.seek(offset)
            row = json.loads(self._file.readline())
            yield row["query_id"], list(zip(row["documents"], row["scores"], strict=True))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self) -> None:
        """Find the finished queries. A last line that was not written to its end is cut off."""
        self._file.seek(0)
        offset = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                with writing(self.path):
                    self._file.truncate(offset)
                return
            self._take(number, line, offset)
            offset += len(line)

    def _take(self, number: int, line: bytes, offset: int) -> None:
        try:
            row = json.loads(line)
            index = self._numbers.get(row["query_id"])
            if index is not None and row["given"] == _given(self._lists, index):
                self.totals.add(row)
                self._at[index] = offset
                return
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{self.path}:{number}: is damaged; delete the line, or start over with fresh=true") from None
        raise UserError(
            f"{self.path}:{number}: query {row['query_id']} has other candidates, or in another order, than when it was "
            "reranked; start over with fresh=true, or give the run that was reranked"
        )


def _given(lists: CandidateLists, index: int) -> str:
    return f"{address(*lists.document_ids(index)):016x}"


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
