"""``stage_b``: a list of documents, an order over them."""

from __future__ import annotations

from r0.commands.output import output_path
from r0.commands.plan import plan
from r0.commands.training import train
from r0.config import StageBConfig


def run(config: StageBConfig, dry_run: bool) -> int:
    """Train, or say what would be done. Returns the exit code."""
    if dry_run:
        print(plan("stage_b", config))
        return 0
    return train("stage_b", config, output_path("stage_b", config))
