"""A BEIR folder with a run, split by query into training, validation and test; no training file has a text of a test query."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.real_parts.questions import Questions, make_questions
from benchmarks.real_parts.thoughts import Asked, write_log
from r0.data.fields import with_title
from r0.data.jsonl import BadLines
from r0.data.runfile import given_order, read_judgements, read_run, write_run
from r0.storage.files import json_line, whole_folder, write_atomic

PARTS = ("train", "validation", "test")
FOLDS = 5  # each is the test part of one run
VALIDATION = 0.15  # of all queries
OTHERS = 3  # documents of a made question in the log, besides the one that answers it
Run = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Source:
    """What was read: texts by id, judgements and run by query."""

    queries: Mapping[str, str]
    documents: Mapping[str, str]
    judged: Run
    run: Run

    def only(self, queries: Sequence[str]) -> dict[str, str]:
        """The texts, by id, of the documents that are candidates of these queries and of no other."""
        known = {document for query in queries for document in self.run[query]}
        others = {document for query in self.run if query not in set(queries) for document in self.run[query]}
        return {document: self.documents[document] for document in sorted(known - others)}

    def relevant(self, query: str) -> bool:
        """Whether a candidate of the query is relevant."""
        return any(self.judged.get(query, {}).get(document, 0) > 0 for document in self.run[query])


def split(data: Path, run: Path, output: Path, fold: int, seed: int) -> None:
    """Write ``output``: the BEIR folder with judgements and a run of each part, groups for ``finetune``, questions made of the
    documents that only training queries have, and a raw log of thoughts about training queries and made questions.

    Args:
        data: the BEIR folder, with ``qrels/test.tsv``.
        run: the candidates of each query.
        output: a new folder.
        fold: the test queries are those of this fold, from 0.
        seed: of the choice of the sentences that become questions.

    Raises:
        UserError: a file cannot be used.
    """
    bad = BadLines(False)
    judged = read_judgements(data / "qrels" / "test.tsv", bad)
    source = Source(_texts(data / "queries.jsonl"), _texts(data / "corpus.jsonl"), judged, read_run(run, bad))
    parts = divided([query for query in source.run if source.relevant(query)], fold)
    with whole_folder(output) as folder:
        (folder / "qrels").mkdir()
        for name in ("corpus.jsonl", "queries.jsonl"):
            shutil.copyfile(data / name, folder / name)
        for part, queries in parts.items():
            _write_part(folder, part, queries, source)
        questions = make_questions(source.only(parts["train"]), seed)
        questions.write(folder / "questions")
        write_log(folder / "raw_log.jsonl", asked(source, parts["train"], questions, seed))


def asked(source: Source, training: Sequence[str], questions: Questions, seed: int) -> list[Asked]:
    """The training queries with their candidates, and made questions with as many relevant documents. Candidates of the
    same query are the others of a made question: they are about the same things."""
    real, made = [], []
    for query in training:
        relevant = {document: source.judged[query].get(document, 0) > 0 for document in source.run[query]}
        texts = [[source.documents[document] for document in relevant if relevant[document] == yes] for yes in (True, False)]
        real.append(Asked(source.queries[query], *texts))
    lists = {document: list(source.run[query]) for query in training for document in source.run[query]}
    draws = random.Random(seed)
    for name, document in questions.answers.items():
        others = [other for other in lists[document] if other != document and other in questions.documents]
        drawn = draws.sample(others, min(OTHERS, len(others)))
        left = [questions.documents[other] for other in drawn]
        made.append(Asked(questions.queries[name], [questions.documents[document]], left))
    count = min(len(made), sum(len(one.relevant) for one in real))  # a made question has one relevant document
    return [*real, *random.Random(seed).sample(made, count)]


def divided(queries: Iterable[str], fold: int) -> dict[str, list[str]]:
    """The queries of each part, in an order that depends on their ids and the fold alone; the folds' test parts are disjoint."""
    order = sorted(queries, key=lambda query: hashlib.sha256(query.encode()).digest())
    test = order[fold::FOLDS]
    others = [query for place, query in enumerate(order) if place % FOLDS != fold]
    first = len(others) * fold // FOLDS
    others = others[first:] + others[:first]
    held = round(VALIDATION * len(order))
    return {"train": others[held:], "validation": others[:held], "test": test}


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
