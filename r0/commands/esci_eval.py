"""``esci eval``: evaluates a four-class reranker on labelled rows."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from r0.config import EsciEvalConfig


def run(config: EsciEvalConfig, dry_run: bool) -> int:
    """Score, evaluate and print the tables."""
    if dry_run:
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip())
        data = Path(config.data).expanduser()
        print(f"would read {data} (which {'exists' if data.is_file() else 'is missing'})")
        if config.save_scores_path is not None:
            print(f"would write {config.save_scores_path}")
        return 0
    from transformers.utils import logging

    from r0.supervised.esci.evaluate import evaluate, table

    logging.disable_progress_bar()
    found, bad = evaluate(config)
    print(table(found), end="")
    if bad.summary():
        print(bad.summary(), file=sys.stderr)
    return 0
