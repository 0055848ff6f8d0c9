"""A reranker over a source: it scores the source's best documents and the positives, each by itself, and ranks by that.

The scores of a finished query are a line of ``queries.jsonl``, so that an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from r0.config import MineConfig, RankingKeys
from r0.data.hashes import hash_key
from r0.errors import UserError
from r0.mining.collection import Collection, Query
from r0.mining.sources import Ranked, Source, by_score
from r0.rerank.cross_encoder import is_cross_encoder
from r0.rerank.job import Job, Outcome
from r0.rerank.reranker import Reranker, prompt_budget
from r0.runs.live import progress
from r0.storage.models import model_folder
from r0.storage.resumable_jsonl import ResumableJsonl, Row


def check_reranker(config: MineConfig) -> RankingKeys:
    """The reranker's keys, before anything is ranked.

    Raises:
        UserError: the model is not here, or cannot score single documents as the configuration has it.
    """
    keys = RankingKeys(
        model=str(config.reranker), method="pointwise", thinking=config.thinking, seed=config.seed, rollout=config.rollout,
        ray=config.ray,
    )  # fmt: skip
    try:
        folder = model_folder(keys.model)
        if not is_cross_encoder(folder, keys):
            prompt_budget(keys, folder)
    except UserError as error:
        raise UserError(f"reranker: {error}") from None
    return keys


class Rescored:
    """The scores of a reranker, in a file. A context manager.

    Args:
        config: with a reranker.
        collection: its queries and texts.
        source: what ranks the corpus first.
        path: of the file.

    Raises:
        UserError: the reranker or the source cannot be used; the file is damaged, or of other documents.
    """

    def __init__(self, config: MineConfig, collection: Collection, source: Source, path: Path):
        self._config, self._collection, self._keys = config, collection, check_reranker(config)
        queries = collection.queries
        self._wanted: dict[str, tuple[str, ...]] = {}
        for query, ranked in zip(queries, progress(source.ranked(queries, config.depth), source.name, len(queries)), strict=True):
            self._wanted[query.id] = tuple(dict.fromkeys((*ranked.documents, *query.positives)))
        self._lines = ResumableJsonl(path, self._query)

    def __len__(self) -> int:
        """Queries that are scored."""
        return len(self._lines)

    def score(self, stop: Callable[[], bool]) -> bool:
        """Score the queries that are left; returns whether none is left.

        Raises:
            UserError: a query cannot be shown to the model (where such are not left out).
        """
        left = [query for query in self._collection.queries if query.id not in self._lines]
        if left and len(self):
            print(f"{len(self)} queries were scored before", flush=True)
        if left and not stop():
            with Reranker.of(self._keys) as reranker:
                names: dict[int, str] = {}
                for outcome in progress(reranker.run(self._jobs(reranker, left, names), stop), "scoring", len(left)):
                    if outcome.refused and not self._config.skip_bad:
                        raise UserError(f"{outcome.refused}; with skip_bad=true such queries are left out")
                    self._keep(names.pop(outcome.key), outcome)
        return len(self) == len(self._collection.queries)

    def ranked(self) -> Iterator[Ranked]:
        """For each query, in order, its documents by the reranker's score; those without one are left out."""
        for query in self._collection.queries:
            yield by_score(self._lines[query.id]["scores"], query.positives)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def __enter__(self) -> Rescored:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _jobs(self, reranker: Reranker, queries: Sequence[Query], names: dict[int, str]) -> Iterator[Job]:
        for query in queries:
            texts = [self._collection.documents.text(name) for name in self._wanted[query.id]]
            job = reranker.job(query.id, query.text, texts, each=True)
            names[job.key] = query.id
            yield job

    def _keep(self, query: str, outcome: Outcome) -> None:
        known = sorted(
            (question.documents[0], reply.probability) for question, reply in outcome.replies if reply.probability is not None
        )
        scores = {self._wanted[query][at]: score for at, score in known}
        self._lines.add({"query_id": query, "given": self._given(query), "scores": scores})

    def _given(self, query: str) -> str:
        return f"{hash_key(*self._wanted[query]):016x}"

    def _query(self, row: Row) -> str:
        query = row["query_id"]
        if query not in self._wanted or row["given"] != self._given(query):
            raise UserError(
                f"query {query} had other documents when it was scored; start over with fresh=true, or give the data of then"
            )
        dict(row["scores"])
        return query
