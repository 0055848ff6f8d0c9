"""Which Ray a run uses: one that is there and fits, else one of its own, which nobody else can reach.

Each test has its own temporary folder, and ends the Ray that it starts itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from r0.actors.cluster import OWN_VARIABLES
from tests.helpers import tiny_model
from tests.launching import LOOPBACK, command, listening, own_lines

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
BY_START = "started on this machine by `ray start`"
RAY = str(Path(sys.executable).parent / "ray")

# Starts or joins a Ray as a command does, and prints what it is; then what it does with its standard input open.
START = """
import json, sys
from r0.process.folders import use_writable_folders
use_writable_folders()
from r0.actors.cluster import start_ray
from r0.config import SftConfig
from r0.errors import UserError
try:
    start_ray(SftConfig.model_validate({"ranks": 2, "ray": json.loads(sys.argv[1])}))
except UserError as error:
    sys.exit(f"r0: {error}")
import ray
ray.get(ray.remote(lambda: None).options(num_cpus=0).remote())  # so that there is a worker
print(json.dumps({"address": ray.get_runtime_context().gcs_address}), flush=True)
sys.stdin.read()
"""
JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('joined')"


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Nothing of this process's Ray, and a temporary folder whose path is short enough for sockets."""
    folder = tempfile.mkdtemp(prefix="r0t", dir="/tmp")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    yield {**kept, "RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled"}
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def started(environment: dict[str, str], **ray: object) -> Iterator[tuple[dict[str, str], subprocess.Popen]]:
    """A process with a Ray; what it says of it is in the dictionary, its standard error under ``said``."""
    with tempfile.TemporaryFile("w+") as errors:
        line = [sys.executable, "-c", START, json.dumps(ray)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(line, env=environment, cwd=ROOT, text=True, **pipes) as process:
            printed = process.stdout.readline()
            errors.seek(0)
            yield {**json.loads(printed or "{}"), "said": errors.read()}, process
            process.stdin.close()
        assert process.returncode == 0 if printed else 1


@contextlib.contextmanager
def head(environment: dict[str, str], cpus: int) -> Iterator[tuple[str, subprocess.Popen]]:
    """``ray start --head`` in a process group of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [RAY, "start", "--head", f"--port={port}", f"--num-cpus={cpus}", "--include-dashboard=false", "--block"]
    process = subprocess.Popen(
        line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    file = Path(environment["RAY_TMPDIR"]) / "ray" / "ray_current_cluster"
    try:
        while not file.exists():
            assert process.poll() is None
            time.sleep(0.1)
        yield file.read_text().strip(), process
    finally:
        end_all(environment["RAY_TMPDIR"])
        process.wait()


def end_all(folder: str) -> None:
    """Kill the processes of the Ray that lives in ``folder``."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (path / "cmdline").read_bytes()
            if folder.encode() in line or f"RAY_TMPDIR={folder}".encode() in (path / "environ").read_bytes():
                os.kill(int(path.name), signal.SIGKILL)


@pytest.mark.slow
def test_a_head_with_room_is_joined(environment: dict[str, str]) -> None:
    with head(environment, cpus=3) as (address, _process), started(environment) as (ray, _):
        assert ray["address"] == address
        assert ray["said"].strip() == f"using the Ray at {address} ({BY_START}); ray.address=local starts another one"


@pytest.mark.slow
def test_what_a_head_leaves_when_it_is_killed_harms_nobody(environment: dict[str, str]) -> None:
    with head(environment, cpus=3) as (address, _process):
        pass
    assert (Path(environment["RAY_TMPDIR"]) / "ray" / "ray_current_cluster").exists()
    with started(environment) as (ray, _):
        assert ray["address"] != address
        assert ray["said"] == ""
    with started({**environment, "RAY_ADDRESS": address}) as (ray, _):  # named, so that it is said
        assert ray["address"] != address
        assert f"the Ray at {address} (RAY_ADDRESS) is not used: nothing answers there; one is started here" in ray["said"]
    with started(environment, address=address) as (ray, _):  # no other will do
        assert ray["said"].startswith(f"r0: ray.address: no Ray cluster answers at {address}: nothing answers there")


@pytest.mark.slow
def test_a_head_without_room_or_one_that_hangs_is_left_alone_and_that_is_said(environment: dict[str, str]) -> None:
    with head(environment, cpus=1) as (address, _process):
        with started(environment) as (ray, _):
            assert ray["address"] != address
            found = f"the Ray at {address} ({BY_START}) is not used: "
            assert f"{found}the run needs 2 CPU and 1 are free; one is started here" in ray["said"]
        servers = [path for path in Path("/proc").glob("[0-9]*") if is_server(path, address)]
        for path in servers:
            os.kill(int(path.name), signal.SIGSTOP)
        with started(environment) as (ray, _):
            assert ray["address"] != address
            assert f"{found}it does not answer within 30 s" in ray["said"]


def is_server(path: Path, address: str) -> bool:
    """Whether it is the process of a Ray's GCS."""
    with contextlib.suppress(OSError):
        line = (path / "cmdline").read_bytes()
        return b"gcs_server" in line and address.rpartition(":")[2].encode() in line
    return False


@pytest.mark.slow
def test_a_run_starts_with_a_long_temporary_folder_and_a_home_that_cannot_be_written(environment, tmp_path: Path) -> None:
    long = tmp_path / ("slurm-job-" + "x" * 100)
    long.mkdir()
    hard = {**environment, "TMPDIR": str(long), "HOME": "/proc"}
    del hard["RAY_TMPDIR"]
    model = tiny_model(tmp_path / "model")
    settings = {
        "model": model, "output": tmp_path / "run", "batch_size": 2, "max_steps": 1, "builtin_rows": 80, "heldout_share": 0.2,
        "max_prompt_tokens": 400, "system_prompt": "Judge.", "max_new_tokens": 4, "eval.every": 0, "reward.min_think_tokens": 1,
    }  # fmt: skip
    done = subprocess.run(command("stage_a", settings), env=hard, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "/proc/.cache cannot be written" in done.stderr
    assert "Traceback" not in own_lines(done.stderr)
    assert not list(long.glob("session*"))


def test_a_ray_of_ones_own_is_nobody_elses_and_ends_with_a_signal_during_a_long_wait(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Sampling would take many minutes."""
    remembered = Path(environment["RAY_TMPDIR"]) / "ray" / "ray_current_cluster"
    remembered.parent.mkdir()
    remembered.write_text("127.0.0.1:1")  # of a head that was killed
    settings = {
        "model": tiny_model(tmp_path / "model", positions=4096), "output": tmp_path / "run", "batch_size": 64, "max_steps": 1,
        "builtin_rows": 200, "max_prompt_tokens": 400, "system_prompt": "Judge.", "max_new_tokens": 3000, "eval.every": 0,
        "rollout.engine": "hf", "reward.min_think_tokens": 1,
    }  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command("stage_a", settings), env=environment, text=True, **pipes)
    try:
        while not sampling(process.pid):
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        assert listening(process.pid) <= LOOPBACK
        address, token = gcs_of(process.pid)
        assert (joins(address, token, environment), joins(address, "0" * 64, environment, 8)) == (True, False)
        process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in own_lines(said)
    assert "is not used" not in said
    assert "stopped before step 1; the same command goes on from here" in out
    assert not [path for path in Path("/proc").glob("[0-9]*") if lives_in(path, environment["RAY_TMPDIR"])]


def gcs_of(pid: int) -> tuple[str, str]:
    """Address and token of the Ray that a process started."""
    for child in psutil.Process(pid).children(recursive=True):
        for argument in child.cmdline():
            if argument.startswith("--gcs-address="):
                return argument.partition("=")[2], child.environ()["RAY_AUTH_TOKEN"]
    raise AssertionError("no process names the GCS")


def joins(address: str, token: str, environment: dict[str, str], seconds: int = 40) -> bool:
    """Whether a process with that token has joined within some seconds. With the right one it takes two."""
    line = [sys.executable, "-c", JOIN, address]
    mine = {**environment, **OWN_VARIABLES, "RAY_AUTH_TOKEN": token}
    return "joined" in subprocess.run(["timeout", str(seconds), *line], env=mine, capture_output=True, text=True).stdout


def sampling(pid: int) -> bool:
    """Whether a worker is sampling: Ray writes what an actor does into its title."""
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(child.cmdline()).startswith("ray::RolloutWorker.stream"):
                return True
    return False


def lives_in(path: Path, folder: str) -> bool:
    with contextlib.suppress(OSError):
        return f"RAY_TMPDIR={folder}".encode() in (path / "environ").read_bytes()
    return False
