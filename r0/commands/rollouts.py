"""``rollouts RUN``: read the rollouts a run kept."""

from __future__ import annotations

from r0.config import RolloutsConfig


def run(config: RolloutsConfig, dry_run: bool) -> int:
    """Print them."""
    from r0.runs.rollout_log import show

    if not dry_run:
        show(config)
    return 0
