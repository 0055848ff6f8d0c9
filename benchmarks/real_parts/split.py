"""A BEIR folder with a run, split by query into training, validation and test; no training file has a text of a test query."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.real_parts.questions import write_questions
from r0.data.fields import with_title
from r0.data.jsonl import BadLines
from r0.data.runfile import given_order, read_judgements, read_run, write_run
from r0.storage.files import json_line, whole_folder, write_atomic

PARTS = {"train": 0.6, "validation": 0.15, "test": 0.25}
Run = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Source:
    """What was read: texts by id, judgements and run by query."""

    queries: Mapping[str, str]
    documents: Mapping[str, str]
    judged: Run
    run: Run

    def relevant(self, query: str) -> bool:
        """Whether a candidate of the query is relevant."""
        return any(self.judged.get(query, {}).get(document, 0) > 0 for document in self.run[query])


def split(data: Path, run: Path, output: Path, seed: int) -> None:
    """Write ``output``: the BEIR folder with judgements and a run of each part, groups for ``finetune``, questions made of the
    documents that only training queries have, and the part of ``raw_log.jsonl`` (if the data has one) of training queries.

    Args:
        data: the BEIR folder, with ``qrels/test.tsv``.
        run: the candidates of each query.
        output: a new folder.
        seed: of the split.

    Raises:
        UserError: a file cannot be used.
    """
    bad = BadLines(False)
    judged = read_judgements(data / "qrels" / "test.tsv", bad)
    source = Source(_texts(data / "queries.jsonl"), _texts(data / "corpus.jsonl"), judged, read_run(run, bad))
    parts = divided([query for query in source.run if source.relevant(query)], seed)
    with whole_folder(output) as folder:
        (folder / "qrels").mkdir()
        for name in ("corpus.jsonl", "queries.jsonl"):
            shutil.copyfile(data / name, folder / name)
        for part, queries in parts.items():
            _write_part(folder, part, queries, source)
        known = {document for query in parts["train"] for document in source.run[query]}
        held = {document for query in source.run if query not in parts["train"] for document in source.run[query]}
        write_questions(folder / "questions", {document: source.documents[document] for document in sorted(known - held)}, seed)
        if (data / "raw_log.jsonl").is_file():
            texts = {source.queries[query] for query in parts["train"]}
            lines = (data / "raw_log.jsonl").read_bytes().splitlines(keepends=True)
            write_atomic(folder / "raw_log.jsonl", [line for line in lines if json.loads(line)["query"] in texts])


def divided(queries: Iterable[str], seed: int) -> dict[str, list[str]]:
    """The queries of each part, in an order that depends on their ids and the seed alone."""
    order = sorted(queries, key=lambda query: hashlib.sha256(f"{seed} {query}".encode()).digest())
    first, second = round(PARTS["train"] * len(order)), round((PARTS["train"] + PARTS["validation"]) * len(order))
    return {"train": order[:first], "validation": order[first:second], "test": order[second:]}


def _write_part(folder: Path, part: str, queries: list[str], source: Source) -> None:
    rows = [(query, document, grade) for query in queries for document, grade in source.judged[query].items()]
    judgements = "".join(f"{query}\t{document}\t{grade:g}\n" for query, document, grade in rows)
    write_atomic(folder / "qrels" / f"{part}.tsv", f"query-id\tcorpus-id\tscore\n{judgements}".encode())
    lists = [
        (query, [(document, source.run[query][document]) for document in given_order(source.run[query])]) for query in queries
    ]
    write_run(folder / f"{part}.trec", lists, "given")
    groups = (
        {
            "query": source.queries[query],
            "hits": [
                {"content": source.documents[document], "label": source.judged[query].get(document, 0)} for document, _ in listed
            ],
        }
        for query, listed in lists
    )
    write_atomic(folder / f"{part}.jsonl", map(json_line, groups))


def _texts(path: Path) -> dict[str, str]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["_id"]: with_title(row.get("title") or "", row["text"]) for row in rows}
