"""Processes of a run die or stop while it trains. What the run repeats, it repeats byte for byte."""

import signal
import subprocess

import pytest

from tests.launching import command, environment, launch_here, own_lines, steps
from tests.small_run import PPO_INLINE, SMALL

pytestmark = pytest.mark.ray

SETTINGS = {
    **SMALL, "algo": "ppo", "rollout.workers": 2, "learner.ranks": 2, "ray.sample_deadline_s": 15, "ray.update_deadline_s": 30,
    "sync.deadline_s": 20,
}  # fmt: skip


def run(model, output, *faults, code=0, settings=SETTINGS):
    """A run of stage A with faults in it; what it printed."""
    fired = [output.parent / f"{fault}.fired" for fault in faults]
    variables = {"R0_FAULT": ";".join(f"{fault} {file}" for fault, file in zip(faults, fired, strict=True))}
    arguments = command("stage_a", {"model": model, "output": output, **settings})
    done = subprocess.run(arguments, env={**environment(), **variables}, capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert all(file.exists() for file in fired), "a fault did not happen"
    return said


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    run(model, output)
    assert all(line["grad_norm"] > 0 for line in steps(output))  # every step changes the weights
    return output


def assert_equal(output, undisturbed):
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (output / file).read_bytes() == (undisturbed / file).read_bytes(), file


REPAIRED = {
    "rollout.update@3=kill": "rollout worker",
    "learner.step@2=kill": "new learner ranks go on from the newest checkpoint",
    "rollout.sample@2=kill": "rollout worker",
    "rollout.sample@2=stop": "rollout worker",
    "rollout.sample@3=raise": "rollout worker",
    "rollout.update@2=stop": "rollout worker",
    "rollout.group@3=kill": "rollout worker",
    "rollout.group@2=stop": "rollout worker",
    "learner.forward@1=kill": "new learner ranks go on from the newest checkpoint",
    "learner.forward@2=stop": "new learner ranks go on from the newest checkpoint",
    "learner.stepped@2=kill": "new learner ranks go on from the newest checkpoint",
    "learner.sync@3=kill": "new learner ranks go on from the newest checkpoint",
    "learner.write@2=kill": "new learner ranks go on from the newest checkpoint",
}


BOTH_KINDS = list(REPAIRED)[:2]


def test_a_run_that_loses_its_only_engine_and_its_only_rank_ends_like_an_undisturbed_one(model, whole, tmp_path):
    said = run(model, tmp_path / "run", *BOTH_KINDS, settings={**SETTINGS, "rollout.workers": 1, "learner.ranks": 1})
    for fault in BOTH_KINDS:
        assert REPAIRED[fault] in said
    assert all(line["grad_norm"] > 0 for line in steps(whole))  # every step changes the weights
    assert_equal(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("faults", [BOTH_KINDS, *([fault] for fault in REPAIRED)], ids=str)
def test_the_run_repairs_itself_and_ends_like_an_undisturbed_one(model, undisturbed, tmp_path, faults):
    said = run(model, tmp_path / "run", *faults)
    for fault in faults:
        assert REPAIRED[fault] in said
    assert_equal(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["driver.step", "driver.learned", "driver.checkpoint"])
@pytest.mark.parametrize("visit", [1, 2, 3])
def test_the_driver_is_killed_and_the_same_command_goes_on(model, undisturbed, tmp_path, place, visit):
    run(model, tmp_path / "run", f"{place}@{visit}=kill", code=-signal.SIGKILL)
    run(model, tmp_path / "run")
    assert_equal(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_after_too_many_restarts_the_run_is_saved_and_ends_in_a_sentence(model, whole, tmp_path):
    settings = {**SMALL, "algo": "ppo", "ray.max_restarts": 0, "checkpoint.every": 0}
    said = run(model, tmp_path / "run", "rollout.sample@3=kill", code=1, settings=settings)
    assert "ray.max_restarts=0" in said
    assert "Traceback" not in own_lines(said)
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()
    assert len(steps(tmp_path / "run")) == 2
    launch_here("stage_a", {"model": model, "output": tmp_path / "run", **PPO_INLINE})
    assert_equal(tmp_path / "run", whole)
