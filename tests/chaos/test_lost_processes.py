"""Processes of a run die or stop while it trains. What the run repeats, it repeats byte for byte."""

import signal
import subprocess

import pytest

from tests.launching import command, environment, steps
from tests.small_run import SMALL

pytestmark = pytest.mark.ray

SETTINGS = {
    **SMALL, "algo": "grpo", "grpo.num_generations": 2, "kl_coef": 0.0, "rollout.workers": 2, "learner.ranks": 2,
    "ray.sample_deadline_s": 15, "ray.update_deadline_s": 30, "sync.deadline_s": 20,
}  # fmt: skip


def run(model, output, fault="", code=0, **more):
    """A run of stage A with a fault in it; what it printed."""
    variables = {"R0_FAULT": f"{fault} {output}.fired"} if fault else {}
    arguments = command("stage_a", {"model": model, "output": output, **SETTINGS, **more})
    done = subprocess.run(arguments, env={**environment(), **variables}, capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert (output.parent / f"{output.name}.fired").exists() == bool(fault), "the fault did not happen"
    return said


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    run(model, output)
    return output


def assert_equal(output, undisturbed):
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (output / file).read_bytes() == (undisturbed / file).read_bytes(), file


REPAIRED = {
    "rollout.update@3=kill": "rollout worker",
    "learner.step@2=kill": "new learner ranks go on from the newest checkpoint",
}
SLOW = {
    "rollout.sample@2=kill": "rollout worker",
    "rollout.sample@2=stop": "rollout worker",
    "rollout.sample@3=raise": "rollout worker",
    "rollout.update@2=stop": "rollout worker",
    "learner.forward@1=kill": "new learner ranks go on from the newest checkpoint",
    "learner.forward@2=stop": "new learner ranks go on from the newest checkpoint",
    "learner.stepped@2=kill": "new learner ranks go on from the newest checkpoint",
    "learner.sync@3=kill": "new learner ranks go on from the newest checkpoint",
    "learner.write@2=kill": "new learner ranks go on from the newest checkpoint",
}


@pytest.mark.parametrize("fault", [*REPAIRED, *(pytest.param(fault, marks=pytest.mark.slow) for fault in SLOW)])
def test_the_run_repairs_itself_and_ends_like_an_undisturbed_one(model, undisturbed, tmp_path, fault):
    said = run(model, tmp_path / "run", fault)
    assert (REPAIRED | SLOW)[fault] in said
    assert_equal(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["driver.step", "driver.learned", "driver.checkpoint"])
@pytest.mark.parametrize("visit", [1, 2, 3])
def test_the_driver_is_killed_and_the_same_command_goes_on(model, undisturbed, tmp_path, place, visit):
    run(model, tmp_path / "run", f"{place}@{visit}=kill", code=-signal.SIGKILL)
    (tmp_path / "run.fired").unlink()
    run(model, tmp_path / "run")
    assert_equal(tmp_path / "run", undisturbed)


def test_after_too_many_restarts_the_run_is_saved_and_ends_in_a_sentence(model, undisturbed, tmp_path):
    said = run(model, tmp_path / "run", "rollout.sample@3=kill", code=1, **{"ray.max_restarts": 0, "checkpoint.every": 0})
    assert "ray.max_restarts=0" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()
    assert len(steps(tmp_path / "run")) == 2
    (tmp_path / "run.fired").unlink()
    run(model, tmp_path / "run", **{"ray.max_restarts": 0, "checkpoint.every": 0})
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
