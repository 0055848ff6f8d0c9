"""Runs that sample one step ahead (``sync.max_staleness=1``) repeat themselves byte for byte, whatever interrupts them."""

import json
import signal
import subprocess
import time

import pytest

from tests.launching import command, environment, launch_here, record
from tests.small_run import SMALL

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

AHEAD = {**SMALL, "max_steps": 4, "max_new_tokens": 24, "checkpoint.every": 2, "sync.max_staleness": 1}
VLLM = {**AHEAD, "algo": "grpo", "grpo.num_generations": 4, "rollout.engine": "vllm", "eval.every": 3, "eval.tasks": 3}
GRPO = {**AHEAD, "algo": "grpo", "grpo.num_generations": 4, "grpo.refill_rounds": 1, "rollout.workers": 2}
PPO = {**AHEAD, "algo": "ppo", "ppo.num_mini_batches": 2}


def start(model, output, settings, fault=""):
    variables = {"R0_FAULT": f"{fault} {output}.fired"} if fault else {}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    arguments = command("stage_a", {"model": model, "output": output, **settings})
    return subprocess.Popen(arguments, env={**environment(), **variables}, **pipes)


def run(model, output, settings, fault="", code=0):
    """A run with a fault in it, or else in this process, which costs no imports; what it printed."""
    if not fault:
        return launch_here("stage_a", {"model": model, "output": output, **settings}, code).stdout
    process = start(model, output, settings, fault)
    said = process.communicate(timeout=400)[0]
    assert process.returncode == code, said
    assert (output.parent / f"{output.name}.fired").exists(), "the fault did not happen"
    return said


def assert_equal(output, undisturbed):
    files = ["metrics.jsonl", "model/model.safetensors", *(f"rollouts/step-{step:06d}.jsonl.gz" for step in range(1, 5))]
    for file in files:
        assert (output / file).read_bytes() == (undisturbed / file).read_bytes(), file


def undisturbed(model, folder, settings):
    """A run that nothing disturbs: the weights change, and all steps but the first are off-policy."""
    run(model, folder / "run", settings)
    lines = [line for line in record(folder / "run") if "reward" in line]
    assert [line["staleness"] for line in lines] == [0.0, 1.0, 1.0, 1.0]
    assert ["gap" in line for line in lines] == [True, False, False, False]
    assert lines[0]["gap"] < 1e-3
    assert lines[0]["importance_std"] < 1e-3 < lines[1]["importance_std"]
    return folder / "run"


@pytest.mark.slow
def test_with_vllm_a_run_that_is_killed_goes_on_from_what_was_sampled_ahead(model, tmp_path):
    """The run up to the kill and the one after it repeat the undisturbed one."""
    whole = undisturbed(model, tmp_path / "whole", VLLM)
    run(model, tmp_path / "run", VLLM, "driver.learned@4=kill", code=-signal.SIGKILL)
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "ahead" / "step-000003.jsonl.gz").is_file()
    run(model, tmp_path / "run", VLLM)
    assert_equal(tmp_path / "run", whole)


@pytest.fixture(scope="module")
def grpo(model, tmp_path_factory):
    return undisturbed(model, tmp_path_factory.mktemp("grpo"), GRPO)


FAULTS = {
    "rollout.sample@4=kill": "rollout worker",
    "rollout.sample@3=raise": "is started again",
    "rollout.group@8=kill": "rollout worker",
    "learner.step@3=kill": "new learner ranks go on from the newest checkpoint",
    "learner.forward@4=kill": "new learner ranks go on from the newest checkpoint",
    "rollout.update@3=kill": "rollout worker",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_that_is_lost_while_the_next_step_is_sampled_changes_nothing(model, grpo, tmp_path, fault):
    assert FAULTS[fault] in run(model, tmp_path / "run", GRPO, fault)
    assert_equal(tmp_path / "run", grpo)


@pytest.mark.slow
def test_a_run_that_is_terminated_goes_on_from_what_was_sampled_ahead(model, grpo, tmp_path):
    process = start(model, tmp_path / "run", GRPO)
    end = time.monotonic() + 300
    while not ((tmp_path / "run" / "metrics.jsonl").is_file() and record(tmp_path / "run")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode in (128 + signal.SIGTERM, 0), said
    if process.returncode:
        newest = max((tmp_path / "run" / "checkpoints").iterdir())
        step = json.loads((newest / "state.json").read_text())["step"]
        assert (newest / "ahead" / f"step-{step + 1:06d}.jsonl.gz").is_file()
        run(model, tmp_path / "run", GRPO)
    assert_equal(tmp_path / "run", grpo)


@pytest.mark.slow
def test_with_ppo_a_run_whose_only_engine_dies_goes_on_from_its_checkpoint(model, tmp_path):
    whole = undisturbed(model, tmp_path / "whole", PPO)
    said = run(model, tmp_path / "run", PPO, "rollout.sample@4=kill")
    assert "no rollout worker is left to sample the next step" in said
    assert_equal(tmp_path / "run", whole)
