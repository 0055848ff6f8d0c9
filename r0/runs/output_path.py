"""The output directory of a command, and whether it is allowed."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from r0.config import Section
from r0.errors import UserError
from r0.runs import default_output


def output_path(command: str, config: Section) -> Path:
    """The run directory given by the configuration's key ``output``, or the default.

    Raises:
        UserError: a relative path under a Ray job, whose working directory is a temporary copy.
    """
    given: str | None = getattr(config, "output", None)
    path = Path(given).expanduser() if given else default_output(command, config)
    if under_ray_job() and not path.is_absolute():
        raise UserError(
            f"output: {path} is relative, but a Ray job runs in a temporary folder; "
            "give an absolute path that every node can write"
        )
    return path.absolute()


def look_at(path: Path) -> str:
    """The command that makes a page of the run at ``path``, in a sentence."""
    return f"to look at it: r0 report {shlex.quote(str(path))}"


def under_ray_job() -> bool:
    """Whether this process is the entrypoint of ``ray job submit``."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
