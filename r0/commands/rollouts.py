"""``rollouts RUN``: prints a summary of a step and its rollouts."""

from __future__ import annotations

from pathlib import Path

from r0.config import RolloutsConfig
from r0.errors import UserError


def run(config: RolloutsConfig, dry_run: bool) -> int:
    """Print a summary of a step and its rollouts.

    Raises:
        UserError: there is no such run, it has no rollouts, or none of that step (the message lists the steps it has).
    """
    from r0.runs.rollout_log import RolloutLog, steps_text
    from r0.runs.rollout_view import show
    from r0.storage.rollout_lines import read_rollouts

    if dry_run:
        return 0
    folder = Path(config.run).expanduser()
    if not folder.is_dir():
        raise UserError(f"run: there is no folder {folder}; give a run directory, such as runs/demo-…")
    files = RolloutLog(folder / "rollouts").files()
    if not files:
        raise UserError(f"run: {folder} contains no rollouts; give the run directory itself, or wait for its first step")
    step = max(files) if config.step is None else config.step
    if step not in files:
        raise UserError(f"step: {folder} has no rollouts of step {step}; choose one of {steps_text(list(files))}")
    logged = list(read_rollouts(files[step]))
    show(files[step], step, logged, config.worst, config.ids)
    return 0
