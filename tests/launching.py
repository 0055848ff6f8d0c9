"""Runs the launcher in a separate process, as a user does, and reads the run's output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from r0.launch import main

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def environment() -> dict[str, str]:
    """One thread, nothing from the network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(name: str, settings: dict[str, object]) -> list[str]:
    """The command line of ``name`` with ``key=value`` settings."""
    return [sys.executable, "-m", "r0.launch", *name.split(), *(f"{key}={value}" for key, value in settings.items())]


def launch(name: str, settings: dict[str, object], code: int = 0, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run it to its end; its exit code must be ``code``."""
    done = subprocess.run(command(name, settings), capture_output=True, text=True, env=environment(), timeout=timeout)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def launch_here(name: str, settings: dict[str, object], code: int = 0) -> subprocess.CompletedProcess[str]:
    """As ``launch``, but in this process, which costs no imports: for commands without Ray."""
    arguments, out, err = command(name, settings)[3:], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        returned = main(arguments)
    assert returned == code, out.getvalue()[-3000:] + err.getvalue()[-3000:]
    return subprocess.CompletedProcess(arguments, returned, out.getvalue(), err.getvalue())


def listening(pid: int) -> set[str]:
    """Addresses on which a process and those below it listen."""
    import psutil

    found = set()
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            found |= {one.laddr.ip for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    return found


def own_lines(said: str) -> str:
    """What a command printed, without what Ray relays from its workers. One that Ray ends at an unlucky moment may complain of an
    ignored SystemExit, which is not the command's doing."""
    return "\n".join(line for line in said.splitlines() if not re.search(r"\(\w+ pid=\d+", line))


def refused(capsys: pytest.CaptureFixture[str], name: str, settings: dict[str, object]) -> str:
    """What the door says to bad input, in this process, which costs no imports; its exit code must be 2."""
    assert main([*name.split(), *(f"{key}={value}" for key, value in settings.items())]) == 2
    return capsys.readouterr().err


def here(capsys: pytest.CaptureFixture[str], name: str, settings: dict[str, object]) -> str:
    """What a command prints that needs neither Ray nor engines, run in this process; its exit code must be 0."""
    assert main([*name.split(), *(f"{key}={value}" for key, value in settings.items())]) == 0
    return capsys.readouterr().out


def record(output: Path, name: str = "metrics.jsonl") -> list[dict]:
    """The lines of a run's record."""
    return [json.loads(line) for line in (output / name).read_text().splitlines()]


def scores_elsewhere(folder: Path, pairs: Sequence[tuple[str, str]], file: Path) -> dict[str, list[float]]:
    """The scores of a cross-encoder's folder in a new process, by ``score_folder.py``; ``file`` is made for the pairs."""
    file.write_text(json.dumps(pairs))
    line = [sys.executable, str(Path(__file__).parent / "score_folder.py"), str(folder), str(file)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def steps(output: Path) -> list[dict]:
    """The lines of training steps."""
    return [line for line in record(output) if "gap" in line]
