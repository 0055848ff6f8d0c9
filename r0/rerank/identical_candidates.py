"""Candidates without those that have the id of their own query (``r0.evaluation.identical_ids``)."""

from __future__ import annotations

from pathlib import Path

from r0.config import RerankConfig
from r0.data.candidates import CandidateLists
from r0.errors import UserError
from r0.evaluation.identical_ids import documents_of_folder, drops_identical, grades_of_folder


class OtherCandidates:
    """The lists of ``lists`` without candidates that have the id of their query; a list with nothing else is left out."""

    def __init__(self, lists: CandidateLists, identical: dict[int, int]):
        self.name, self.bad = lists.name, lists.bad
        self._lists, self._identical = lists, identical
        self._at = [index for index in range(len(lists)) if index not in identical or len(lists.document_ids(index)) > 1]
        if not self._at:
            raise UserError(f"{lists.name}: every candidate has the id of its query; give other candidates")

    def __len__(self) -> int:
        return len(self._at)

    def query_id(self, index: int) -> str:
        """Id of query ``index``."""
        return self._lists.query_id(self._at[index])

    def query(self, index: int) -> str:
        """Text of query ``index``."""
        return self._lists.query(self._at[index])

    def document_ids(self, index: int) -> tuple[str, ...]:
        """[N] ids in the order of the run."""
        return self._others(index, self._lists.document_ids(self._at[index]))

    def scores(self, index: int) -> tuple[float, ...]:
        """[N] scores in the order of the run."""
        return self._others(index, self._lists.scores(self._at[index]))

    def document(self, index: int, place: int) -> str:
        """Text of candidate number ``place`` of query ``index``."""
        own = self._identical.get(self._at[index])
        return self._lists.document(self._at[index], place + (own is not None and place >= own))

    def _others(self, index: int, values: tuple) -> tuple:
        own = self._identical.get(self._at[index])
        return values if own is None else values[:own] + values[own + 1 :]


def without_identical(config: RerankConfig, lists: CandidateLists) -> tuple[CandidateLists, int]:
    """The candidates to rerank, and the number of those dropped because they have the id of their query.

    Raises:
        UserError: no candidate is left.
    """
    identical: dict[int, int] = {}
    for index in range(len(lists)) if config.ignore_identical_ids else ():
        ids = lists.document_ids(index)
        if lists.query_id(index) in ids:
            identical[index] = ids.index(lists.query_id(index))
    if not identical:
        return lists, 0
    folder = Path(config.data).expanduser()
    queries = {lists.query_id(index) for index in range(len(lists))}

    def documents() -> set[str]:
        if folder.is_dir():
            return documents_of_folder(folder, queries)
        return {name for index in range(len(lists)) for name in lists.document_ids(index) if name in queries}

    if not drops_identical(
        config.ignore_identical_ids, queries, documents, lambda: grades_of_folder(folder) if folder.is_dir() else {}
    ):
        return lists, 0
    return OtherCandidates(lists, identical), len(identical)
