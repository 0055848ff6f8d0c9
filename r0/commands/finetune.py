"""``finetune``: supervised fine-tuning of a reranker."""

from __future__ import annotations

from r0.commands.plan import plan
from r0.config import FinetuneConfig


def run(config: FinetuneConfig, dry_run: bool, command: str = "finetune", gpu_memory: float | None = None) -> int:
    """Train, or print the plan. Returns the exit code."""
    if dry_run:
        print(plan(command, config, gpu_memory))
        return 0
    from r0.supervised.finetune.run import run as finetune

    finetune(config, command)
    return 0
