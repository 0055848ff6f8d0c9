"""``stage_a``: one document, yes or no."""

from __future__ import annotations

from r0.commands.plan import plan
from r0.commands.training import train
from r0.config import StageAConfig
from r0.runs.output_path import output_path


def run(config: StageAConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Train, or print the plan. Returns the exit code."""
    if dry_run:
        print(plan("stage_a", config, gpu_memory))
        return 0
    return train("stage_a", config, output_path("stage_a", config))
