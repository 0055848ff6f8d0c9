"""A Ray that is already there: which one the environment names, and whether this run can use it.

A separate process looks at it, with a deadline: joining a Ray that hangs, or one of another version, can neither hang nor end the
run. ``python -m r0.actors.found_ray ADDRESS`` is that process; it prints what it found.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ANSWER_S = 30.0  # seconds for the whole look: Python, Ray and a worker start
CONNECT_S = 3.0
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set in what `ray job submit` runs


@dataclass(frozen=True)
class FoundRay:
    """An address and who names it (``RAY_ADDRESS``, or the file that ``ray start`` wrote); ``named`` by the user, so that it is
    said when it cannot be used."""

    address: str
    source: str
    named: bool


@dataclass(frozen=True)
class Look:
    """What was seen of a Ray: resources of its nodes, those that are free, and the Python environment of its workers."""

    nodes: list[dict[str, float]]
    free: dict[str, float]
    prefix: str
    has_r0: bool


class CannotUse(Exception):
    """Why a Ray cannot be used, in a few words."""


def find_ray() -> FoundRay | None:
    """The Ray that RAY_ADDRESS names, or the one that ``ray start --head`` started on this machine."""
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return None
    if named and named != "auto":
        return FoundRay(named, "RAY_ADDRESS", named=True)
    file = Path(os.environ.get("RAY_TMPDIR") or _temp()) / "ray" / "ray_current_cluster"
    try:
        address = file.read_text().strip()
    except OSError:
        return None
    return FoundRay(address, "started on this machine by `ray start`", named=named == "auto") if address else None


def _temp() -> str:
    """Where Ray keeps its folder ``ray``."""
    temp = os.environ.get("TMPDIR")
    return temp if sys.platform.startswith("linux") and temp else "/tmp"


def listens(address: str) -> bool:
    """Whether something accepts connections at ``address``; what is no host and port is left to Ray to judge."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            return True
    except OSError:
        return False


def look_at(address: str) -> Look:
    """Look at the Ray at ``address`` in a process of its own.

    Raises:
        CannotUse: it does not answer in time, or is of another version.
    """
    if address.startswith(("http://", "https://")):
        raise CannotUse("that is the address of a dashboard, for `ray job submit`")
    if not listens(address):
        raise CannotUse("nothing answers there")
    line = [sys.executable, "-m", __name__, address]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotUse(f"it does not answer within {ANSWER_S:g} s") from None
    for printed in reversed(done.stdout.splitlines()):
        if printed.startswith("{"):
            found = json.loads(printed)
            if "fault" in found:
                raise CannotUse(found["fault"])
            return Look(**found)
    raise CannotUse("it does not answer as a Ray of this version")


def use_token() -> None:
    """Send the token that there is, where nothing else is said. `ray start` uses it unasked, `ray.init` does not.
    Call it before Ray is imported."""
    token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token or os.path.isfile(os.path.expanduser("~/.ray/auth_token")):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _look(address: str) -> dict:
    """Join, start a worker and ask it; what ``Look`` holds."""
    use_token()
    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="r0")

    def worker() -> tuple[str, bool]:
        return sys.prefix, importlib.util.find_spec("r0") is not None

    prefix, has_r0 = ray.get(ray.remote(worker).options(num_cpus=0).remote(), timeout=ANSWER_S)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return {"nodes": nodes, "free": ray.available_resources(), "prefix": prefix, "has_r0": has_r0}


def _fault(error: BaseException) -> str:
    """Why joining failed. Ray wraps the cause, and spreads versions over lines."""
    cause = error.__cause__ if isinstance(error, ConnectionError) and error.__cause__ else error
    lines = [line.strip() for line in str(cause).strip().splitlines()]
    if lines and lines[0].startswith("Version mismatch"):
        pairs = [line for line in lines if line.startswith(("Ray:", "Python:"))]
        return f"it runs {', '.join(pairs[:2])}, and r0 {', '.join(pairs[2:4])}" if len(pairs) > 3 else "it is of another version"
    return lines[0] if lines else type(cause).__name__


def main(address: str) -> None:
    """Print what is seen of the Ray at ``address`` as a line of JSON, and end without goodbye: it may hang."""
    try:
        found = _look(address)
    except Exception as error:  # whatever it is, the run goes on without that Ray
        found = {"fault": _fault(error)}
    print(f"\n{json.dumps(found)}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
