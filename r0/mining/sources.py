"""Sources that rank a collection's documents: BM25, the candidates of a run, or a dense model (``dense.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from r0.config import MineConfig
from r0.data.candidates import drop_unknown
from r0.data.columns import DOCUMENT, QUERY
from r0.data.hashes import text_hash
from r0.data.runfile import given_order, read_run
from r0.data.table import folder_file
from r0.errors import UserError
from r0.mining.collection import Collection, Query
from r0.mining.dense import DenseSource
from r0.mining.ranked import Ranked, Source


def open_source(config: MineConfig, collection: Collection) -> Source:
    """Open the configured source; a model is loaded on its first query.

    Raises:
        UserError: the ranks exceed the available documents, or the run or the model cannot be used.
    """
    size = len(collection.documents)
    if config.deepest > size:
        raise UserError(f"ranks: go up to {config.deepest}, but {collection.name} has only {size} documents; end them at {size}")
    if config.run is not None:
        source = RunSource(Path(config.run).expanduser(), collection)
        if config.deepest > source.longest:
            raise UserError(
                f"ranks: go up to {config.deepest}, but the longest list of {config.run} has only {source.longest} documents; "
                f"end them at {source.longest}, or give a deeper run (retrieve depth={config.deepest})"
            )
        return source
    if config.model is not None:
        return DenseSource(config.model, collection)
    return Bm25Source(collection)


class Bm25Source:
    """BM25 with the defaults of ``retrieve``. Documents without a word of the query are not ranked."""

    name = "bm25"

    def __init__(self, collection: Collection):
        self._collection = collection

    def ranked(self, queries: Sequence[Query], depth: int) -> Iterator[Ranked]:
        """See ``Source``."""
        from r0.evaluation.bm25 import Bm25

        index = Bm25(self._collection.documents)

        def one(query: Query) -> Ranked:
            best = index.search(query.text, depth)
            positives = dict(index.rank(query.text, query.positives))
            return Ranked([name for name, _ in best], [score for _, score in best], positives)

        return map(one, queries)


class RunSource:
    """The candidates of a TREC run with their scores. A query missing from the run has no documents.

    Raises:
        UserError: the run cannot be read, or names a query or a document that the collection does not contain.
    """

    def __init__(self, path: Path, collection: Collection):
        self.name, folder = str(path), Path(collection.name)
        self._run = read_run(path, collection.bad)
        known = {text_hash(name) for name in self._run if name in collection.query_ids}
        drop_unknown(self._run, known, QUERY, path, folder_file(folder, "queries"), collection.bad)
        known = {text_hash(name) for names in self._run.values() for name in names if name in collection.documents}
        drop_unknown(self._run, known, DOCUMENT, path, folder_file(folder, "corpus"), collection.bad)
        self._run = {query.id: self._run[query.id] for query in collection.queries if query.id in self._run}
        if not self._run:
            raise UserError(f"run: {path} has none of the queries with a relevant document; give a run over the same data set")
        self.longest = max(map(len, self._run.values()))

    def ranked(self, queries: Sequence[Query], depth: int) -> Iterator[Ranked]:
        """See ``Source``."""
        for query in queries:
            scores = self._run.get(query.id, {})
            best = given_order(scores)[:depth]
            known = {name: scores[name] for name in query.positives if name in scores}
            yield Ranked(best, [scores[name] for name in best], known)
