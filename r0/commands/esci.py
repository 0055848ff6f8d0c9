"""``esci``: trains a reranker with four classes."""

from __future__ import annotations

from r0.commands.plan import plan
from r0.commands.table import before_and_after
from r0.config import EsciConfig
from r0.runs import heldout_lines

ROWS = (
    ("loss", "cross-entropy, nats"),
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("auc_exact", "AUC of exact against the rest"),
    ("ndcg", "nDCG by score"),
    ("ndcg@10", "nDCG@10 by score"),
)


def run(config: EsciConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Train and print metrics before and after, or print the plan. Returns the exit code."""
    if dry_run:
        print(plan("esci", config, gpu_memory))
        return 0
    from r0.supervised.esci.run import run as esci

    output = esci(config)
    if heldout_lines(output / "metrics.jsonl"):
        print(before_and_after(output, ROWS, after="after"))
    return 0
