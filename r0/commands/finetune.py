"""``finetune``: supervised fine-tuning of a reranker."""

from __future__ import annotations

import sys

from r0.commands.plan import plan
from r0.config import FinetuneConfig


def run(config: FinetuneConfig, dry_run: bool, command: str = "finetune", gpu_memory: float | None = None) -> int:
    """Train, or say what would be done. Returns the exit code: 128 + signal when it was stopped and saved."""
    if dry_run:
        print(plan(command, config, gpu_memory))
        return 0
    from r0.supervised.finetune import run as finetune
    from r0.supervised.training import driver

    try:
        finetune.run(config, command)
    except driver.Stopped as stopped:
        print(f"r0: {stopped}", file=sys.stderr)
        return stopped.exit_code
    return 0
