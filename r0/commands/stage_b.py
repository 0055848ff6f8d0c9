"""``stage_b``: a list of documents, an order over them."""

from __future__ import annotations

from r0.commands.plan import plan
from r0.commands.table import before_and_after
from r0.commands.training import train
from r0.config import StageBConfig
from r0.runs.output_path import output_path

ROWS = (
    ("greedy/ndcg@10", "nDCG@10, greedy (unreadable answers: the given order)"),
    ("greedy/ndcg@10_given", "  of the given order"),
    ("greedy/ndcg@10_gain_p", "  paired t-test against it, p"),
    ("greedy/ndcg@10_well_formed", "nDCG@10 among well-formed answers, greedy"),
    ("sampled/ndcg@10_well_formed", "nDCG@10 among well-formed answers, sampled"),
    ("sampled/well_formed_rate", "well-formed answers, sampled"),
    ("sampled/reward", "reward, sampled"),
)


def run(config: StageBConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Train and print metrics before and after, or print the plan. Returns the exit code."""
    if dry_run:
        print(plan("stage_b", config, gpu_memory))
        return 0
    output = output_path("stage_b", config)
    code = train("stage_b", config, output)
    if code == 0 and config.samples and config.learns:
        print(before_and_after(output, ROWS, every=config.eval.every))
    return code
