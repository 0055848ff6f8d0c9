"""A reranker on top of a source: it scores the source's best documents and the positives one by one, and ranks by these scores.

The scores of each finished query are a line of ``queries.jsonl``, so an interrupted run can resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from r0.config import MineConfig, RankingKeys
from r0.data.hashes import hash_key
from r0.errors import UserError
from r0.mining.collection import Collection, Query
from r0.mining.ranked import Ranked, Source, by_score
from r0.process.signals import StopRequest
from r0.rerank.job import Job, Outcome
from r0.rerank.prompt_budget import check_model
from r0.rerank.reranker import Reranker
from r0.rerank.session import Work, finish
from r0.runs.live import progress
from r0.storage.models import model_folder
from r0.storage.resumable_jsonl import ResumableJsonl, Row


def check_reranker(config: MineConfig) -> RankingKeys:
    """The reranker's keys, checked before anything is ranked.

    Raises:
        UserError: the model cannot be found, or cannot score single documents as configured.
    """
    keys = RankingKeys(
        model=str(config.reranker), method="pointwise", thinking=config.thinking, seed=config.seed, rollout=config.rollout,
        ray=config.ray, chat_template_kwargs=config.chat_template_kwargs,
    )  # fmt: skip
    try:
        check_model(keys, model_folder(keys.model))
    except UserError as error:
        raise UserError(f"reranker: {error}") from None
    return keys


class Rescored(ResumableJsonl[str]):
    """The scores of a reranker by query, in a file. A context manager.

    Args:
        config: a configuration with a reranker.
        collection: queries and texts.
        source: ranks the corpus first.
        path: the file.

    Raises:
        UserError: the reranker or the source cannot be used, or the file is damaged or belongs to other documents.
    """

    def __init__(self, config: MineConfig, collection: Collection, source: Source, path: Path):
        self._config, self._collection, self._keys = config, collection, check_reranker(config)
        queries = collection.queries
        self._wanted: dict[str, tuple[str, ...]] = {}
        for query, ranked in zip(queries, progress(source.ranked(queries, config.depth), source.name, len(queries)), strict=True):
            self._wanted[query.id] = tuple(dict.fromkeys((*ranked.documents, *query.positives)))
        super().__init__(path)

    def score(self, stop: StopRequest) -> bool:
        """Score the remaining queries; return whether all are scored.

        Raises:
            UserError: a query does not fit the prompt, and such queries are not skipped.
        """
        queries = self._collection.queries
        left = [query for query in queries if query.id not in self]
        work = Work(left, len(left), self._job, self._keep, "queries", "scored", "scoring")
        return finish(self._keys, work, self, len(queries), stop) is not None

    def ranked(self) -> Iterator[Ranked]:
        """For each query, in order, its documents by the reranker's score; documents without a score are dropped, and equal
        scores keep the source's order.
        """
        for query in self._collection.queries:
            yield by_score(self.row(query.id)["scores"], query.positives)

    def _job(self, reranker: Reranker, query: Query) -> Job:
        texts = [self._collection.documents.text(name) for name in self._wanted[query.id]]
        return reranker.job(query.id, query.text, texts, each=True)

    def _keep(self, query: Query, outcome: Outcome) -> None:
        if outcome.refused and not self._config.skip_bad:
            raise UserError(f"{outcome.refused}; with skip_bad=true such queries are left out")
        known = sorted((ask.documents[0], reply.probability) for ask, reply in outcome.replies if reply.probability is not None)
        scores = {self._wanted[query.id][at]: score for at, score in known}
        self.append({"query_id": query.id, "given": self._given(query.id), "scores": scores})

    def _given(self, query: str) -> str:
        return f"{hash_key(*self._wanted[query]):016x}"

    def key_of(self, row: Row) -> str:
        """The query of a line."""
        query = row["query_id"]
        if query not in self._wanted or row["given"] != self._given(query):
            raise UserError(
                f"query {query} had other documents when it was scored; start over with fresh=true, or give the same data"
            )
        dict(row["scores"])
        return query
