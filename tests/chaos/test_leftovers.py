"""What a run on Ray leaves behind, whichever way it ends: nothing but its output and the last sessions of its Ray."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.launching import command, environment
from tests.small_run import SMALL

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SIGNALS = {  # of the driver, at its second step
    "a run that is finished": (),
    "Ctrl-C": (signal.SIGINT,),
    "Ctrl-C twice": (signal.SIGINT, signal.SIGINT),
    "SIGTERM": (signal.SIGTERM,),
    "SIGKILL": (signal.SIGKILL,),
}
SHARED_MEMORY = Path("/dev/shm")
PATIENCE_S = 60.0  # for processes of Ray whose driver was killed


@pytest.fixture
def places() -> Iterator[dict[str, str]]:
    """Temporary folders of its own, with paths that are short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="r0l", dir="/tmp"))
    named = {"TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": str(folder / "ray")}
    for path in named.values():
        Path(path).mkdir()
    yield named
    shutil.rmtree(folder, ignore_errors=True)


def processes(places: dict[str, str]) -> list[psutil.Process]:
    """Those that were started with these folders."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == places["RAY_TMPDIR"] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def files(places: dict[str, str]) -> list[str]:
    """What lies in the temporary folders, but Ray's sessions and r0's own folder above them."""
    temporary, ray = Path(places["TMPDIR"]), Path(places["RAY_TMPDIR"])
    own = [path for path in ray.rglob("*") if not any(part.startswith("session_") for part in path.relative_to(ray).parts)]
    return sorted(str(path) for path in (*temporary.rglob("*"), *own) if path.name != f"r0-{os.getuid()}")


def shared_memory() -> set[str]:
    return {path.name for path in SHARED_MEMORY.iterdir()}


def run(settings: dict[str, object], places: dict[str, str], signals: tuple[signal.Signals, ...] = ()) -> None:
    """Run it; at its second step the signals are sent. Until it has ended, and its processes with it."""
    record = Path(str(settings["output"])) / "metrics.jsonl"
    with tempfile.TemporaryFile("w+") as said:
        line = command("stage_a", settings)
        process = subprocess.Popen(line, env={**environment(), **places}, stdout=said, stderr=subprocess.STDOUT, text=True)
        while signals and not (record.is_file() and record.read_bytes().count(b"\n") >= 2):
            assert process.poll() is None, said.seek(0) or said.read()[-3000:]
            time.sleep(0.02)
        for number in signals:
            process.send_signal(number)
            time.sleep(0.3)
        code = process.wait(timeout=300)
        assert (code == 0) == (not signals), said.seek(0) or said.read()[-3000:]
    end = time.monotonic() + PATIENCE_S
    while left := processes(places):
        assert time.monotonic() < end, [one.cmdline() for one in left]
        time.sleep(0.1)


@pytest.mark.parametrize("way", SIGNALS)
def test_nothing_is_left_behind(model: str, places: dict[str, str], tmp_path: Path, way: str) -> None:
    settings = {**SMALL, "model": model, "output": tmp_path / "run", "max_steps": 8, "algo": "grpo", "grpo.num_generations": 2}
    before = shared_memory()
    run(settings, places, SIGNALS[way])
    if way == "SIGKILL":  # nobody is there to clean up: the next start does
        run(settings, places)
    assert not files(places)
    assert shared_memory() <= before
    sessions = [path for path in Path(places["RAY_TMPDIR"]).rglob("session_2*") if path.is_dir()]
    assert len(sessions) <= 3
