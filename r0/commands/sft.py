"""``sft``: the supervised warm start."""

from __future__ import annotations

from r0.commands.plan import plan
from r0.config import SftConfig


def run(config: SftConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Train, or print the plan. Returns the exit code."""
    if dry_run:
        print(plan("sft", config, gpu_memory))
        return 0
    from r0.supervised.sft.run import run as sft

    sft(config)
    return 0
