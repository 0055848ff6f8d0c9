"""``distill score``: a teacher's raw logits for labelled data."""

from __future__ import annotations

from r0.commands.plan import plan_score
from r0.config import ScoreConfig


def run(config: ScoreConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Score, or print the plan. Returns the exit code: 0 if done, 128 + signal if stopped (the same command resumes)."""
    if dry_run:
        print(plan_score(config, gpu_memory))
        return 0
    from r0.teacher.score import score

    return score(config)
