"""``distill train``: a student learns from a teacher's scores; ``finetune`` on triplets or scored groups."""

from __future__ import annotations

from r0.commands import finetune
from r0.config import DistillTrainConfig


def run(config: DistillTrainConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Train, or print the plan. Returns the exit code."""
    return finetune.run(config, dry_run, command="distill train", gpu_memory=gpu_memory)
