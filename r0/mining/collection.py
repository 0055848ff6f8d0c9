"""The input of mining: documents, and queries with relevance judgements.

Either a BEIR folder with judgements, whose texts stay in their files; or labelled rows, whose documents together form the
corpus and are numbered.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from r0.config import MineConfig
from r0.data.beir import find_qrels
from r0.data.groups import by_query
from r0.data.hashes import query_hash
from r0.data.jsonl import BadLines, readable_file, shown
from r0.data.labelled import LabelBounds, LabelledKind
from r0.data.labelled_rows import kind_of_labelled, read_labelled
from r0.data.qrels import read_all
from r0.data.table import document_text, folder_file, query_text
from r0.errors import UserError
from r0.evaluation.identical_ids import drops_identical
from r0.evaluation.judgements import open_judgements
from r0.mining.texts import BLANK, FileTexts, MemoryTexts, Texts


@dataclass(frozen=True, slots=True)
class Query:
    """A query that has positives."""

    id: str
    text: str
    positives: tuple[str, ...]  # ids, with different texts
    irrelevant: frozenset[str] = frozenset()  # ids judged below the threshold
    excluded: frozenset[str] = frozenset()  # ids excluded from the task for this query


@dataclass
class Collection:
    """Documents, and the queries that have positives."""

    name: str
    documents: Texts
    bad: BadLines
    query_ids: Container[str] = ()  # of all queries, including those without a positive
    queries: list[Query] = field(default_factory=list)
    unanswered: int = 0  # judged queries without a positive
    drops_identical: bool = False  # whether a document with the id of a query is none for this query
    _relevant: dict[int, set[int]] = field(default_factory=dict)  # relevant texts by query hash

    def add(self, query: str, text: str, labels: Mapping[str, float], excluded: frozenset[str], threshold: float) -> None:
        """Add a query with the labels of its documents; a query without a positive is only counted."""
        relevant = {name: self.documents.same(name) for name, label in labels.items() if label >= threshold}
        by_text = {same: name for name, same in reversed(relevant.items()) if same != BLANK}
        if not by_text:
            self.unanswered += 1
            return
        positives = tuple(name for name in relevant if by_text.get(relevant[name]) == name)
        irrelevant = frozenset(name for name, label in labels.items() if label < threshold)
        self.queries.append(Query(query, text, positives, irrelevant, excluded))
        self._relevant.setdefault(query_hash(text), set()).update(by_text)

    def inventory(self) -> str:
        """A printable summary of the sizes."""
        positives = sum(len(query.positives) for query in self.queries)
        said = f"{self.name}: {len(self.documents)} documents, {len(self.queries)} queries with {positives} positives"
        return said + (f"; {self.unanswered} judged queries without a positive dropped" if self.unanswered else "")

    def relevant(self, query: Query) -> set[int]:
        """The hashes (``Texts.same``) of texts that are relevant to the query, or to another query with the same words."""
        return self._relevant[query_hash(query.text)]


def check_collection(config: MineConfig) -> None:
    """Refuse what cannot be read, as far as the names tell.

    Raises:
        UserError: a file is missing.
    """
    data = Path(config.data)
    if data.is_dir():
        find_qrels(config.qrels, data)
    else:
        readable_file(data, "a BEIR folder, or a JSONL file of labelled documents")
    if config.run is not None:
        readable_file(Path(config.run), "a TREC run over the BEIR folder")


def open_collection(config: MineConfig) -> Collection:
    """Read the collection named by ``data``.

    Raises:
        UserError: a file is missing or invalid, an id is unknown or occurs twice, or no query has a positive.
    """
    data = Path(config.data).expanduser()
    if data.is_dir():
        found = _of_beir(config, data)
        where = find_qrels(config.qrels, data)
    else:
        found, where = _of_rows(config, data), data
    if not found.queries:
        raise UserError(
            f"{where}: no query has a relevant document (a label of at least {config.relevance_threshold:g}); "
            "lower relevance_threshold=, or give other data"
        )
    return found


def _of_beir(config: MineConfig, folder: Path) -> Collection:
    bad = BadLines(config.skip_bad)
    qrels = find_qrels(config.qrels, folder)
    judged = open_judgements([qrels], [], bad)
    queries = FileTexts(folder_file(folder, "queries"), bad, query_text)
    documents = FileTexts(folder_file(folder, "corpus"), bad, document_text)
    found = Collection(str(folder), documents, bad, queries)
    _refuse_unknown(qrels, judged.grades, config.relevance_threshold, queries, documents, bad)
    key = config.ignore_identical_ids
    found.drops_identical = drops_identical(key, queries.ids, lambda: documents, lambda: judged.grades)
    for query in queries.ids:
        if query in judged.grades:
            labels = {name: grade for name, grade in judged.grades[query].items() if name in documents}
            excluded = judged.excluded.get(query, frozenset())
            found.add(query, queries.text(query), labels, excluded, config.relevance_threshold)
    return found


def _of_rows(config: MineConfig, path: Path) -> Collection:
    bad, documents = BadLines(config.skip_bad), MemoryTexts()
    kind = kind_of_labelled(readable_file(path, "a BEIR folder, or a JSONL file of labelled documents"), config.skip_bad)
    if kind == LabelledKind.POINTWISE:
        raise UserError(f"data: {path} has one row per document; give groups, [query, positives, negatives], or a BEIR folder")
    if config.run is not None:
        raise UserError(f"run: {config.run} lists documents of a BEIR folder, but data={path} is not one; use another source")
    found = Collection(str(path), documents, bad)
    for number, one in enumerate(by_query(read_labelled(path, kind, LabelBounds(), bad, f"reading {path.name}")), 1):
        labels: dict[str, float] = {}
        for document, label in zip(one.documents, one.labels, strict=True):
            name = documents.add(document)
            labels[name] = max(label, labels.get(name, label))
        found.add(str(number), one.query, labels, frozenset(), config.relevance_threshold)
    return found


def _refuse_unknown(
    path: Path, grades: Mapping[str, Mapping[str, float]], threshold: float, queries: Texts, documents: Texts, bad: BadLines
) -> None:
    """Refuse, or skip and count, judged queries and relevant documents that do not exist."""
    unknown = {
        (query, name)
        for query, judged in grades.items()
        for name, grade in judged.items()
        if query not in queries or (grade >= threshold and name not in documents)
    }
    for number, query, name, _ in read_all(path, BadLines(skip=True)) if unknown else ():
        if (query, name) in unknown:
            what = f"the document {shown(name)}" if query in queries else f"the query {shown(query)}"
            where = "corpus.jsonl" if query in queries else "queries.jsonl"
            bad.refuse(path, number, f"{what} is not in {where}")
