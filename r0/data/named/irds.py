"""Data sets of the package ir_datasets, which is not among r0's requirements."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from r0.data.named import store
from r0.data.named.beir_folder import write_grades
from r0.data.named.names import IR_DATASETS
from r0.errors import UserError, reason
from r0.storage.files import json_line


def open_ir_dataset(name: str) -> tuple[Path, store.Facts]:
    """The BEIR folder of ``ir_datasets:ID``; its split is the last word of the id.

    Raises:
        UserError: the package is not installed, it does not know the id, the data set has no documents or no queries, or cannot
            be read or downloaded.
    """
    identity = name.removeprefix(IR_DATASETS)
    try:
        import ir_datasets
    except ImportError:
        raise UserError(f"{name}: needs the package ir_datasets, which is not installed; run `pip install ir_datasets`") from None
    try:
        dataset = ir_datasets.load(identity)
    except KeyError:
        raise UserError(f"{name}: ir_datasets has no data set {identity}; its ids are listed on ir-datasets.com") from None
    if not (dataset.has_docs() and dataset.has_queries()):
        lacking = "queries" if dataset.has_docs() else "documents"
        raise UserError(f"{name}: this data set has no {lacking}; name one that has, such as {identity}/test")
    made_of, split = {"id": identity, "ir_datasets": version("ir_datasets")}, identity.rpartition("/")[2]
    try:
        return store.kept(name, made_of, lambda folder: _write(folder, dataset, split))
    except UserError:
        raise
    except Exception as error:  # of the package, of its downloads, of the formats it reads
        raise UserError(f"{name}: cannot be read or downloaded ({reason(error).rstrip('.')}); try again later") from error


def _write(folder: Path, dataset: Any, split: str) -> store.Facts:
    documents = _lines(folder / "corpus.jsonl", _documents(dataset))
    queries = _lines(
        folder / "queries.jsonl", ({"_id": one.query_id, "text": one.default_text()} for one in dataset.queries_iter())
    )
    judgements = {}
    if dataset.has_qrels():
        found = ((one.query_id, one.doc_id, float(one.relevance)) for one in dataset.qrels_iter())
        judgements[split] = write_grades(folder, split, found)[0]
    return {"documents": documents, "queries": queries, "judgements": judgements}


def _documents(dataset: Any) -> Iterator[dict[str, str]]:
    for one in dataset.docs_iter():
        if isinstance(text := getattr(one, "text", None), str):
            yield {"_id": one.doc_id, "title": getattr(one, "title", "") or "", "text": text}
        else:
            yield {"_id": one.doc_id, "title": "", "text": one.default_text()}


def _lines(path: Path, rows: Iterator[dict[str, str]]) -> int:
    count = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(json_line(row))
            count += 1
    return count
