"""``sft``: the supervised warm start."""

from __future__ import annotations

import sys

from r0.commands.plan import plan
from r0.config import SftConfig


def run(config: SftConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Train, or say what would be done. Returns the exit code: 128 + signal when it was stopped and saved."""
    if dry_run:
        print(plan("sft", config, gpu_memory))
        return 0
    from r0.supervised.sft import run as sft
    from r0.supervised.training import driver

    try:
        sft.run(config)
    except driver.Stopped as stopped:
        print(f"r0: {stopped}", file=sys.stderr)
        return stopped.exit_code
    return 0
