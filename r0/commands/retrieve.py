"""``retrieve``: first-stage retrieval by BM25."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from r0.config import RetrieveConfig


def run(config: RetrieveConfig, dry_run: bool) -> int:
    """Retrieve, and print a summary."""
    from r0.evaluation.first_stage import retrieve
    from r0.evaluation.identical_ids import said

    if dry_run:
        from r0.data.table import folder_file

        folder = Path(config.data).expanduser()
        given = [Path(path).expanduser() for path in (config.candidates, *config.excluded) if path is not None]
        for path in (folder_file(folder, "corpus"), folder_file(folder, "queries"), *given):
            print(f"would read {path} (which {'exists' if path.is_file() else 'is missing'})")
        print(f"would write {config.output}")
        return 0
    start = time.monotonic()
    written = retrieve(config)
    if written.bad.summary():
        print(written.bad.summary(), file=sys.stderr)
    print(f"{written.path}: {written.candidates} candidates of {written.queries} queries in {time.monotonic() - start:.1f} s")
    if sentence := said(written.identical):
        print(sentence)
    if written.unmatched:
        print(f"{written.unmatched} queries have no document to rank and are not in it")
    return 0
