"""Ten queries of the built-in task as the data of benchmarks/real.py, and a runner of its steps."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from r0.launch import main


def real_data(folder: Path) -> Path:
    """Write a BEIR folder with a run of ten queries; returns it."""
    assert main(["convert", "builtin", str(folder), "rows=10", "candidates=4"]) == 0
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):  # sentences, of which questions are made
        more = f"Clerk {number} of the town wrote this down. The copy lies in room {number} of the hall."
        row["text"] = f"{row['text'].rstrip('.')}. {more}"
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def here(words: Sequence[str], log: Path) -> int:
    """Run a command in this process, which costs no imports."""
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return main(list(words))
