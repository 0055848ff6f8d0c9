"""Writes the built-in lists as a BEIR folder with a first-stage run, for ``rerank`` and ``eval``: ``convert builtin FOLDER``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from r0.config.commands import ConvertConfig
from r0.data.builtin.lists import MOST_CANDIDATES, builtin_list_task
from r0.data.runfile import write_run
from r0.errors import UserError
from r0.records import Form, ListwiseTask
from r0.storage.files import write_atomic, writing

RUN_NAME = "given.trec"


def convert_builtin(config: ConvertConfig) -> str:
    """Write ``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv`` and ``given.trec`` of ``config.rows`` lists; return a
    printable summary. Lists of another seed have other queries.

    Raises:
        UserError: the folder exists and is not empty, it cannot be written, or the number of candidates is not possible.
    """
    folder = Path(config.output)
    if not 2 <= config.candidates <= MOST_CANDIDATES:
        raise UserError(f"candidates={config.candidates}: built-in lists have 2 to {MOST_CANDIDATES}; use candidates=6")
    with writing(folder):
        if folder.exists() and next(folder.iterdir(), None) is not None:
            raise UserError(f"{folder}: is not empty; name a new folder for the built-in task")
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
    tasks = [builtin_list_task(row, config.seed, Form.PERMUTATION, config.candidates) for row in range(config.rows)]
    pairs = [
        (query, document, task.documents[place], int(task.label.grades[place]))
        for task in tasks
        for place, query, document in _ids(task)
    ]
    _write_lines(folder / "queries.jsonl", ({"_id": _query_id(task), "text": task.query} for task in tasks))
    _write_lines(folder / "corpus.jsonl", ({"_id": document, "title": "", "text": text} for _, document, text, _ in pairs))
    judged = "".join(f"{query}\t{document}\t{grade}\n" for query, document, _, grade in pairs)
    write_atomic(folder / "qrels" / "test.tsv", f"query-id\tcorpus-id\tscore\n{judged}".encode())
    write_run(folder / RUN_NAME, ((_query_id(task), _given(task)) for task in tasks), "given")
    return f"{folder}: {len(tasks)} queries with {config.candidates} documents each; the first stage's run is {folder / RUN_NAME}"


def _query_id(task: ListwiseTask) -> str:
    return f"q{task.task_id + 1}"


def _ids(task: ListwiseTask) -> list[tuple[int, str, str]]:
    """(place, query id, document id) of each document, in the order shown."""
    query = _query_id(task)
    return [(place, query, f"{query}-d{place + 1}") for place in range(task.size)]


def _given(task: ListwiseTask) -> list[tuple[str, float]]:
    """The documents in first-stage order, with 1 / rank as score."""
    ids = _ids(task)
    return [(ids[place][2], 1 / rank) for rank, place in enumerate(task.label.given, 1)]


def _write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
