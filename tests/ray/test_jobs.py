"""``ray job submit`` with token authentication: through launch/local_job.sh, and on two Ray nodes of one machine.

Each test starts its own Ray on free ports with its own token and temporary folder, and ends those processes only.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
TINY = ROOT / "r0" / "configs" / "stage_a_tiny.yaml"
FEW = ["max_steps=2", "batch_size=4", "eval.every=0", "builtin_rows=100", "sync.deadline_s=120"]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A token of its own, and a temporary folder whose path is short enough for sockets."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    folder = tempfile.mkdtemp(prefix="r0", dir="/tmp")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    yield {
        **kept, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "R0_RAY_TEMP": folder,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def check_run(output: Path, steps: int) -> list[dict]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "gap" in line] == list(range(1, steps + 1))
    assert max(line["gap"] for line in lines if "gap" in line) < 1e-3
    assert (output / "finished.json").is_file()
    assert (output / "model" / "model.safetensors").stat().st_size > 1_000_000
    return lines


def test_the_local_script_runs_stage_a_as_a_job(environment: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    script = [str(ROOT / "launch" / "local_job.sh"), str(output), *FEW, "rollout.engine=hf"]  # vLLM in a job: two nodes, below
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    check_run(output, 2)
    assert not alive_with(environment["R0_RAY_TEMP"])  # its head is gone


@pytest.mark.slow
def test_a_job_without_the_token_and_one_with_a_relative_output_are_refused(environment: dict[str, str], tmp_path: Path) -> None:
    with ray_nodes(environment, [2]) as address:
        bad = {**environment, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
        (tmp_path / "other").write_text(secrets.token_hex(32))
        refused = submit(address, bad, "output=/nowhere")
        assert refused.returncode != 0
        assert not Path("/nowhere").exists()
        relative = submit(address, environment, "output=runs/relative")
        assert relative.returncode != 0
        assert "a Ray job runs in a temporary folder" in relative.stdout + relative.stderr


@pytest.mark.slow
def test_a_job_spans_two_nodes(environment: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    wide = ["learner.ranks=2", "learner.zero_stage=2", "reward.workers=1", "rollout.workers=1"]  # 4 cores: more than a node has
    with ray_nodes(environment, [2, 2]) as address:
        done = submit(address, environment, f"output={output}", *FEW, *wide)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    check_run(output, 2)


def submit(address: str, environment: dict[str, str], *settings: str) -> subprocess.CompletedProcess[str]:
    entry = [sys.executable, "-m", "r0.launch", "stage_a", str(TINY), *settings]
    command = ["ray", "job", "submit", "--address", address, "--", *entry]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


@contextlib.contextmanager
def ray_nodes(environment: dict[str, str], cpus: list[int]) -> Iterator[str]:
    """A head and further nodes with the cores given; yields the address that takes jobs."""
    gcs, dashboard, client, *agents = free_ports(3 + len(cpus))
    head = ["--head", f"--port={gcs}", f"--ray-client-server-port={client}", f"--temp-dir={environment['R0_RAY_TEMP']}",
            "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]  # fmt: skip
    processes: list[subprocess.Popen] = []
    try:
        for index, (count, agent) in enumerate(zip(cpus, agents, strict=True)):
            place = head if index == 0 else [f"--address=127.0.0.1:{gcs}"]
            command = ["ray", "start", "--block", "--disable-usage-stats", f"--num-cpus={count}",
                       f"--dashboard-agent-listen-port={agent}", "--object-store-memory=200000000",
                       "--node-ip-address=127.0.0.1", *place]  # fmt: skip
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            processes.append(subprocess.Popen(command, env=environment, **pipes))
            wait_for_nodes(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment, index + 1, processes[-1])
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=30)
    assert not alive_with(environment["R0_RAY_TEMP"])


def wait_for_nodes(jobs: str, gcs: str, environment: dict[str, str], nodes: int, started: subprocess.Popen) -> None:
    """Until the job server answers and ``nodes`` nodes are alive."""
    count = f"import ray; ray.init('{gcs}', log_to_driver=False); print('nodes', sum(n['Alive'] for n in ray.nodes()))"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if started.poll() is not None:
            pytest.fail(f"ray start ended: {started.communicate()[0]}")
        ready = subprocess.run(["ray", "job", "list", "--address", jobs], env=environment, capture_output=True)
        if ready.returncode == 0:
            answer = subprocess.run([sys.executable, "-c", count], env=environment, capture_output=True, text=True)
            if f"nodes {nodes}" in answer.stdout:
                return
        time.sleep(1)
    pytest.fail(f"{nodes} Ray nodes were not ready in 120 s")


def alive_with(text: str) -> list[int]:
    """Processes that carry ``text`` in their command line, after a few seconds to end."""
    import psutil

    deadline = time.monotonic() + 20
    while True:
        found = [p.pid for p in psutil.process_iter(["cmdline"]) if any(text in part for part in p.info["cmdline"] or [])]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)
