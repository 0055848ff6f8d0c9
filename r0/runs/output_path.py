"""Where a command writes, and whether it may."""

from __future__ import annotations

import os
from pathlib import Path

from r0.config import Section
from r0.errors import UserError
from r0.runs import default_output


def output_path(command: str, config: Section) -> Path:
    """The run directory that the configuration asks for by its key ``output``.

    Raises:
        UserError: a relative path under a Ray job, whose folder is a copy that goes away.
    """
    given: str | None = getattr(config, "output", None)
    path = Path(given).expanduser() if given else default_output(command, config)
    if under_ray_job() and not path.is_absolute():
        raise UserError(
            f"output: {path} is relative, and a Ray job's folder is a copy that is deleted; "
            "give an absolute path that every node can write"
        )
    return path.absolute()


def under_ray_job() -> bool:
    """Whether this process is the entrypoint of ``ray job submit``."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
