"""Builds DeepSpeed's native part for CPU ranks (the shared-memory all-reduce in addition to gloo) in advance.

``python -m r0.tools.native`` builds it into torch's extensions folder. Without it the first rank of the first run would build it
(about 30 s) while the others wait.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from r0.errors import UserError
from r0.process import native
from r0.process.environment import prepare_environment
from r0.process.folders import use_writable_folders


def build() -> float:
    """Build it if necessary; returns the seconds it took.

    Raises:
        UserError: no C++ compiler, no Python headers, or the compiler failed.
    """
    import time

    _check_tools()
    native.use_environment_tools()
    prepare_environment()
    use_writable_folders()
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    began = time.monotonic()
    builder = ShareMemCommBuilder()
    if not builder.is_compatible(verbose=False):
        return 0.0  # not Linux: gloo alone is used
    try:
        builder.load(verbose=False)
        native.mark()
    except (RuntimeError, ImportError, OSError) as error:
        raise UserError(f"DeepSpeed's {builder.name} could not be built: {str(error).strip().splitlines()[-1]}") from error
    return time.monotonic() - began


def _check_tools() -> None:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"no C++ compiler ({compiler}) was found, and DeepSpeed has a native part to build; "
            "install one (Debian: apt-get install g++)"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise UserError(f"{header} is missing, and DeepSpeed has a native part to build; install it (Debian: python3-dev)")


def main(arguments: list[str]) -> int:
    """Build, print the seconds it took, and return the exit code. ``--for PID``: build for that process, which has the lock, and
    end with it."""
    try:
        if arguments[:1] == ["--for"]:
            native.end_with(int(arguments[1]))
            seconds = build()
        else:
            use_writable_folders()
            with native.build_lock():
                seconds = build()
    except UserError as error:
        print(f"make setup: {error}", file=sys.stderr)
        return 2
    print(f"make setup: DeepSpeed's native part is ready ({seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
