"""A run goes on with another length, ZeRO stage or number of ranks, and from another run's checkpoint."""

import pytest
import torch
from safetensors.torch import load_file

from tests import launching
from tests.launching import here, refused, steps
from tests.small_run import PPO_INLINE, SMALL

pytestmark = pytest.mark.ray

def weights(output):
    return load_file(output / "model" / "model.safetensors")


def test_a_finished_run_can_be_made_longer_and_not_shorter(model, whole, tmp_path, capfd):
    settings = {"model": model, "output": tmp_path / "run", **PPO_INLINE}
    here(capfd, "stage_a", {**settings, "max_steps": 2})
    here(capfd, "stage_a", settings)
    assert [line["step"] for line in steps(tmp_path / "run")] == [1, 2, 3]
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(tmp_path / "run")[name], tensor), name  # no schedule: the length changes no step
    assert "the run has done 3 steps, more than 1" in refused(capfd, "stage_a", {**settings, "max_steps": 1})


def test_never_refuses_and_a_path_starts_from_another_runs_checkpoint(model, whole, tmp_path, capfd):
    settings = {"model": model, **PPO_INLINE}
    assert "holds a run" in refused(capfd, "stage_a", {**settings, "output": whole, "checkpoint.resume": "never"})
    nowhere = {**settings, "output": tmp_path / "run", "checkpoint.resume": tmp_path}
    assert "neither a checkpoint nor a run" in refused(capfd, "stage_a", nowhere)
    assert not (tmp_path / "run").exists()
    here(capfd, "stage_a", {**settings, "output": tmp_path / "run", "checkpoint.resume": whole / "checkpoints" / "step-00000002"})
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


STAGES = [(0, 2), (2, 3), (3, 0)]


@pytest.mark.parametrize(("before", "after"), STAGES)
def test_another_zero_stage_goes_on_with_the_same_weights_and_moments(model, whole, tmp_path, capfd, before, after):
    settings = {"model": model, "output": tmp_path / "run", **PPO_INLINE}
    here(capfd, "stage_a", {**settings, "max_steps": 2, "learner.zero_stage": before})
    said = here(capfd, "stage_a", {**settings, "learner.zero_stage": after})
    assert f"learner.zero_stage {before} there, {after} here" in said
    assert_close(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [((2, 2), (1, 0)), ((2, 3), (1, 2)), ((1, 0), (2, 3)), ((2, 1), (2, 3))])
def test_another_number_of_ranks_goes_on_with_the_same_weights_and_moments(model, whole, tmp_path, before, after):
    for (ranks, stage), length in ((before, 2), (after, 3)):
        shape = {"learner.ranks": ranks, "learner.zero_stage": stage, "max_steps": length}
        launching.launch("stage_a", {"model": model, "output": tmp_path / "run", **SMALL, "algo": "ppo", **shape})
    assert_close(tmp_path / "run", whole)


def assert_close(output, whole):
    found = weights(output)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=2e-5, msg=name)
