"""``convert IN OUT``: raw production logs to pointwise rows."""

from __future__ import annotations

from pathlib import Path

from r0.config import ConvertConfig


def run(config: ConvertConfig, dry_run: bool) -> int:
    """Convert, and print what was written."""
    from r0.data.convert import convert

    if dry_run:
        state = "exists" if Path(config.input).is_file() else "is missing"
        print(f"would convert {config.input} (which {state}) to {config.output}")
        return 0
    print(convert(config).summary())
    return 0
