"""A run of 40 steps whose processes are killed 20 times, at random moments, ends byte for byte as an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.launching import command, environment
from tests.small_run import SMALL

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

STEPS, KILLS = 40, 20
SETTINGS: dict[str, object] = {
    **SMALL, "max_steps": STEPS, "builtin_rows": 400, "algo": "ppo", "rollout.workers": 2, "learner.ranks": 2,
    "ray.max_restarts": 1000, "ray.address": "local", "ray.sample_deadline_s": 60, "ray.update_deadline_s": 60,
    "sync.deadline_s": 30,
}  # fmt: skip
ROLES = ("ray::RolloutWorker", "ray::Learner", "ray::RewardWorker")


def start(model: str, output: Path, seed: int) -> subprocess.Popen:
    """The run, whose output goes to a file beside its folder."""
    line = command("stage_a", {"model": model, "output": output, **SETTINGS, "seed": seed})
    with (output.parent / f"{output.name}.log").open("a") as log:
        return subprocess.Popen(line, env=environment(), stdout=log, stderr=subprocess.STDOUT)


def done(output: Path) -> int:
    """The steps that are recorded."""
    file = output / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def victims(driver: subprocess.Popen) -> list[psutil.Process]:
    """The driver, and the workers of the roles as Ray names their processes."""
    found = psutil.Process(driver.pid)
    named = [(process, " ".join(process.cmdline())) for process in found.children(recursive=True)]
    return [found, *(process for process, name in named if name.startswith(ROLES))]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_run_killed_twenty_times_at_random_ends_like_an_undisturbed_one(model, tmp_path, seed):
    whole, output, dice = tmp_path / "whole", tmp_path / "run", random.Random(seed)
    assert start(model, whole, seed).wait(900) == 0
    assert done(whole) == STEPS
    moments = sorted(dice.choices(range(STEPS - 1), k=KILLS))  # the steps after which a process is killed
    driver, killed = start(model, output, seed), 0
    while driver.poll() is None or driver.returncode == -signal.SIGKILL:
        if driver.poll() is not None:
            driver = start(model, output, seed)
        if killed < KILLS and done(output) > moments[killed]:
            time.sleep(dice.random())  # anywhere in a step, or while another worker is started again
            try:
                os.kill(dice.choice(victims(driver)).pid, signal.SIGKILL)
                killed += 1
            except (psutil.Error, ProcessLookupError):
                pass  # it has ended meanwhile
        time.sleep(0.05)
    assert driver.returncode == 0, (tmp_path / "run.log").read_text()[-5000:]
    assert killed == KILLS
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (output / file).read_bytes() == (whole / file).read_bytes(), file
