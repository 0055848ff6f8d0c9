"""``fuse``: several runs become one, by the ranks of their documents."""

from __future__ import annotations

import sys
from pathlib import Path

from r0.config import FuseConfig


def run(config: FuseConfig, dry_run: bool) -> int:
    """Fuse the runs, and print what was written."""
    if dry_run:
        for path in config.runs:
            print(f"would read {path} (which {'exists' if Path(path).expanduser().is_file() else 'is missing'})")
        print(f"would write {config.output}")
        return 0
    from r0.evaluation.fused import fuse

    written = fuse(config)
    if written.bad.summary():
        print(written.bad.summary(), file=sys.stderr)
    print(f"{written.path}: {written.candidates} candidates of {written.queries} queries from {len(config.runs)} runs")
    if written.partial:
        print(f"{written.partial} queries are not in every run")
    return 0
