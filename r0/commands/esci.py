"""``esci``: a reranker of four classes."""

from __future__ import annotations

import sys

from r0.commands.plan import plan
from r0.commands.table import before_and_after
from r0.config import EsciConfig
from r0.runs import read_record

ROWS = (
    ("loss", "cross-entropy, nats"),
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("auc_exact", "AUC of exact against the rest"),
    ("ndcg", "nDCG by score"),
    ("ndcg@10", "nDCG@10 by score"),
)


def run(config: EsciConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Train and show what it changed, or say what would be done. Returns the exit code: 128 + signal when stopped and saved."""
    if dry_run:
        print(plan("esci", config, gpu_memory))
        return 0
    from r0.supervised.esci import run as esci
    from r0.supervised.training import driver

    try:
        output = esci.run(config)
    except driver.Stopped as stopped:
        print(f"r0: {stopped}", file=sys.stderr)
        return stopped.exit_code
    if any("heldout/loss" in line for line in read_record(output / "metrics.jsonl")):
        print(before_and_after(output, ROWS, after="after"))
    return 0
