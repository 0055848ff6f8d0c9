"""The first stage: ranks the documents of a BEIR folder and writes a TREC run."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from r0.config import RetrieveConfig
from r0.data.beir import find_qrels, read_texts
from r0.data.candidates import drop_unknown
from r0.data.columns import DOCUMENT, QUERY
from r0.data.hashes import text_hash
from r0.data.jsonl import BadLines
from r0.data.runfile import read_run, write_run
from r0.data.table import document_text, folder_file, query_text
from r0.errors import UserError
from r0.evaluation.bm25 import Bm25
from r0.evaluation.identical_ids import drops_identical, grades_of_folder
from r0.evaluation.judgements import open_judgements
from r0.runs.live import progress
from r0.storage.files import refuse_inputs

_FOLDER = "a BEIR folder with corpus.jsonl and queries.jsonl"


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The result of ``retrieve``."""

    path: Path
    queries: int
    candidates: int
    unmatched: int  # queries that share no word with any document; they are not in the run
    identical: int  # documents dropped because they have the id of their query
    bad: BadLines


def retrieve(config: RetrieveConfig) -> Retrieved:
    """Index the corpus, rank documents for each query, and write the run in the order of ``queries.jsonl``.

    Raises:
        UserError: a file is missing or invalid, an id is unknown or occurs twice, or there is nothing to rank.
    """
    folder, bad = Path(config.data).expanduser(), BadLines(config.skip_bad)
    if not folder.is_dir():
        raise UserError(f"data: {folder} is not a folder; give {_FOLDER}")
    read = (folder_file(folder, "corpus"), folder_file(folder, "queries"), *(folder / "qrels").glob("*"))
    files = (*config.excluded, *filter(None, [config.candidates]))
    refuse_inputs(Path(config.output).expanduser(), [*read, *(Path(path).expanduser() for path in files)])
    queries = {name: text for name, text, _ in read_texts(folder_file(folder, "queries"), bad, query_text, _FOLDER)}
    given = _Given(Path(config.candidates).expanduser(), folder, bad) if config.candidates is not None else None
    if given is not None:
        given.drop_unknown(queries, QUERY)
    named = queries.keys()
    queries = _wanted(config, folder, queries, given, bad)
    corpus = ((name, text) for name, text, _ in read_texts(folder_file(folder, "corpus"), bad, document_text, _FOLDER))
    index = Bm25(corpus, config.k1, config.b, config.stemmer, config.stopwords)
    if given is not None:
        given.drop_unknown(index, DOCUMENT)
    drops = drops_identical(config.ignore_identical_ids, named, lambda: index, lambda: grades_of_folder(folder))
    excluded = open_judgements([], [Path(path).expanduser() for path in config.excluded], bad).excluded
    lists, identical = {}, 0
    for query, text in progress(queries.items(), "ranking", len(queries)):
        left_out = excluded.get(query, frozenset())
        most = config.depth + drops + len(left_out)
        found = index.search(text, most) if given is None else index.rank(text, given.documents(query))
        found = [one for one in found if one[0] not in left_out]
        others = [one for one in found if not (drops and one[0] == query)]
        identical += len(found) - len(others)
        if others:
            lists[query] = others[: config.depth]
    if not lists:
        raise UserError(f"data: no query of {folder} has a document to rank, so no run is written")
    path = Path(config.output).expanduser()
    write_run(path, lists.items(), config.tag)
    return Retrieved(path, len(lists), sum(map(len, lists.values())), len(queries) - len(lists), identical, bad)


class _Given:
    """The candidates of another run."""

    def __init__(self, path: Path, folder: Path, bad: BadLines):
        self._path, self._folder, self._bad = path, folder, bad
        self._run = read_run(path, bad)

    def __contains__(self, query: str) -> bool:
        return query in self._run

    def documents(self, query: str) -> list[str]:
        """Ids of the query's candidates; empty if all were dropped."""
        return list(self._run.get(query, ()))

    def drop_unknown(self, known: Container[str], column: int) -> None:
        """Drop the candidates whose query or document is not ``known``.

        Raises:
            UserError: there are such candidates, and bad lines are not skipped.
        """
        queries = column == QUERY
        names = self._run if queries else {name for documents in self._run.values() for name in documents}
        hashes = {text_hash(name) for name in names if name in known}
        where = folder_file(self._folder, "queries" if queries else "corpus")
        drop_unknown(self._run, hashes, column, self._path, where, self._bad)


def _wanted(config: RetrieveConfig, folder: Path, queries: dict[str, str], given: _Given | None, bad: BadLines) -> dict[str, str]:
    """The queries that are judged (if ``qrels`` is given) and have candidates (if another run is given).

    Raises:
        UserError: there are none.
    """
    if config.qrels is not None:
        path = find_qrels(config.qrels, folder)
        grades = open_judgements([path], [], bad).grades
        queries = {query: text for query, text in queries.items() if query in grades}
        if not queries:
            raise UserError(f"qrels: none of the queries of {folder} is judged in {path}; give judgements of the same data set")
    if given is not None:
        queries = {query: text for query, text in queries.items() if query in given}
        if not queries:
            raise UserError(f"candidates: {config.candidates} has none of the queries; give a run for the same data set")
    return queries
