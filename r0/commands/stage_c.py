"""``stage_c``: a score that orders close calls, from labelled lists."""

from __future__ import annotations

from r0.commands.plan import plan
from r0.commands.table import before_and_after
from r0.config import StageCConfig
from r0.runs import read_record

ROWS = (
    ("ndcg@10", "nDCG@10 by score, held-out lists"),
    ("ndcg@10_given", "  of the given order"),
    ("format_rate", "format rate: completions with an answer, greedy"),
    ("well_formed_rate", "well-formed completions, greedy"),
    ("ece", "calibration error (ECE) of P(yes)"),
)


def run(config: StageCConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Train and print metrics before and after, or print the plan. Returns the exit code."""
    if dry_run:
        print(plan("stage_c", config, gpu_memory))
        return 0
    from r0.supervised.stage_c import run as stage_c

    output = stage_c.run(config)
    if not config.eval_lists:
        return 0
    print(before_and_after(output, ROWS, after="after"))
    changes = [line[stage_c.CHANGE_P] for line in read_record(output / "metrics.jsonl") if stage_c.CHANGE_P in line]
    if changes:  # a run that was made longer has several
        print(f"nDCG@10, paired t-test of the change over the lists: p = {changes[-1]:.2g}")
    return 0
