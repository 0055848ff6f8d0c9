"""Ten queries of the built-in task as the data of benchmarks/real.py, and a runner of its steps."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from r0.launch import main


def real_data(folder: Path) -> Path:
    """Write a BEIR folder with a run and a log of ten queries; returns it."""
    assert main(["convert", "builtin", str(folder), "rows=10", "candidates=4"]) == 0
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):  # sentences, of which questions are made
        more = f"Clerk {number} of the town wrote this down. The copy lies in room {number} of the hall."
        row["text"] = f"{row['text'].rstrip('.')}. {more}"
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = {row["_id"]: row["text"] for row in rows}
    log = []
    for row in map(json.loads, (folder / "queries.jsonl").read_text().splitlines()):
        first, second = (corpus[f"{row['_id']}-d{place}"] for place in (1, 2))
        rejected = [{"document": second, "thinking": "It does not."}]
        log.append({"query": row["text"], "response": first, "response_thinking": "It does.", "rejected_response": rejected})
    (folder / "raw_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    return folder


def here(words: Sequence[str], log: Path) -> int:
    """Run a command in this process, which costs no imports."""
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return main(list(words))
