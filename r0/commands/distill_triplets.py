"""``distill triplets``: converts a teacher's scores to triplets for MarginMSE."""

from __future__ import annotations

from pathlib import Path

from r0.config import DistillTripletsConfig


def run(config: DistillTripletsConfig, dry_run: bool) -> int:
    """Write the triplets, and print a summary."""
    from r0.distill.triplets import write_triplets

    if dry_run:
        state = "exists" if Path(config.data).expanduser().is_file() else "is missing"
        print(f"would write the triplets of {config.data} (which {state}) to {config.output}")
        return 0
    print(write_triplets(config).summary())
    print(config.output)
    return 0
