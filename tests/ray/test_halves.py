"""One half of a run: learning from the rollouts of another run, and sampling without a learner."""

import shutil
from pathlib import Path

import pytest

from r0.actors.rollout.hf_engine import HfEngine
from r0.launch import main
from r0.runs.rollout_log import RolloutLog
from r0.storage.rollout_lines import read_rollouts
from tests.helpers import tiny_model
from tests.launching import here, record, refused
from tests.small_run import PPO_INLINE, SMALL
from tests.traces import check_trace

pytestmark = pytest.mark.ray

PPO = {**PPO_INLINE, "kl_coef": 0.02, "ppo.num_ppo_epochs": 2, "ppo.num_mini_batches": 2}
REPLAY = {**PPO, "eval.every": 1}  # which is off
WITH_GRPO = {**SMALL, "algo": "grpo", "grpo.num_generations": 2, "ray.inline": "true"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), hidden=64)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A finished run of three steps."""
    output = tmp_path_factory.mktemp("run") / "whole"
    settings = {**PPO, "model": model, "output": output, "profile": "true"}
    assert main(["stage_a", *(f"{key}={value}" for key, value in settings.items())]) == 0
    return output


def no_engine(*_args):
    raise AssertionError("an engine is loaded")


def test_learning_from_the_rollouts_of_a_run_repeats_it_bit_for_bit(model, run, tmp_path, capsys, monkeypatch):
    output = tmp_path / "replayed"
    monkeypatch.setattr(HfEngine, "__init__", no_engine)
    said = here(capsys, "stage_a", {"model": model, "output": output, **REPLAY, "rollouts": run})
    assert f"learning from the rollouts of {run}: nothing is sampled, evaluated or sent" in said
    assert (output / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
    weights = (output / "model" / "model.safetensors").read_bytes()
    assert weights == (run / "model" / "model.safetensors").read_bytes()
    assert weights != (Path(model) / "model.safetensors").read_bytes()
    assert not list((output / "rollouts").iterdir())  # they are stored where they were sampled


def test_a_trace_of_one_process_has_the_roles_apart(run):
    check_trace(run, ["driver", "rollout 0", "reward 0", "learner 0"], steps=[1, 2, 3])


def test_a_trace_of_one_half_has_the_roles_that_work(model, run, tmp_path, capsys):
    output = tmp_path / "replayed"
    here(capsys, "stage_a", {"model": model, "output": output, **REPLAY, "rollouts": run, "profile.steps": "2-3"})
    check_trace(output, ["driver", "learner 0"], steps=[2, 3])
    output = tmp_path / "sampled"
    here(capsys, "stage_a", {**WITH_GRPO, "model": model, "output": output, "rollouts_only": "true", "profile": "1"})
    check_trace(output, ["driver", "rollout 0", "reward 0"], steps=[1])


def test_another_learner_goes_on_with_rollouts_of_another_policy(model, run, tmp_path, capsys):
    output, other = tmp_path / "run", {"max_steps": 0, "learning_rate": 0.05, "sync.gap_fatal": 1e-3, "sync.gap_warn": 1e-4}
    here(capsys, "stage_a", {"model": model, "output": output, **REPLAY, **other, "rollouts": run})
    lines = record(output)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[0]["gap"] < 1e-3 < lines[2]["gap"]
    assert [line["reward"] for line in lines] == [line["reward"] for line in record(run)]


def test_the_rollouts_of_a_run_that_ended_early_are_learned_on_its_own_schedule(model, tmp_path, capsys):
    longer = {**WITH_GRPO, "model": model, "max_steps": 5, "learning_rate": 1e-3, "grpo.num_ppo_epochs": 2}
    longer |= {"learner.lr_schedule": "cosine", "learner.warmup_ratio": 0.4}
    whole, early, output = (tmp_path / name for name in ("whole", "early", "replayed"))
    here(capsys, "stage_a", {**longer, "output": whole})
    shutil.copytree(whole, early)
    for step in (4, 5):
        RolloutLog(early / "rollouts").files()[step].unlink()
    said = here(capsys, "stage_a", {**longer, "output": output, "rollouts": early})
    assert f"{early} has the rollouts of steps 1, 2, 3: this run ends there, on the schedule of max_steps=5" in said
    assert record(output) == record(whole)[:3]
    rates = [line["lr"] for line in record(whole)]  # by steps, however many passes and mini-batches they have
    assert rates == pytest.approx([0.5e-3, 1e-3, 1e-3, 0.75e-3, 0.25e-3])


def test_a_replayed_run_that_was_stopped_goes_on(model, run, tmp_path, capsys):
    output, settings = tmp_path / "run", {"model": model, "output": tmp_path / "run", **REPLAY, "rollouts": run}
    here(capsys, "stage_a", {**settings, "max_steps": 2})
    assert "resuming after step 2 of 3" in here(capsys, "stage_a", settings)
    assert (output / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_both_halves_on_ray_need_no_resources_of_the_other(ray_session, model, tmp_path, capsys):
    sampled, learned = tmp_path / "sampled", tmp_path / "learned"
    settings = {**WITH_GRPO, "ray.inline": "false", "model": model}
    too_many = {"learner.cpus": 64}
    said = here(capsys, "stage_a", {**settings, **too_many, "output": sampled, "rollouts_only": "true", "max_steps": 2})
    assert f"the rollouts are in {sampled / 'rollouts'}" in said
    assert [line["step"] for line in record(sampled)] == [1, 2]
    assert not (sampled / "model").exists()
    first, second = RolloutLog(sampled / "rollouts").files().values()
    assert {one.scored.rollout.sampled.version for one in [*read_rollouts(first), *read_rollouts(second)]} == {0}
    too_many = {"rollout.cpus": 64, "reward.workers": 64}
    here(capsys, "stage_a", {**settings, **too_many, "output": learned, "rollouts": sampled, "max_steps": 0})
    assert [line["step"] for line in record(learned)] == [1, 2]


@pytest.mark.slow
def test_a_run_that_sampled_ahead_is_repeated_from_its_stale_rollouts(ray_session, model, tmp_path, capsys):
    ahead, output = tmp_path / "ahead", tmp_path / "replayed"
    settings = {**PPO, "model": model, "sync.max_staleness": 1}
    here(capsys, "stage_a", {**settings, "output": ahead, "ray.inline": "false", "profile.steps": "2-3"})
    check_trace(ahead, ["driver", "rollout 0", "reward 0", "learner 0"], steps=[2, 3])
    here(capsys, "stage_a", {**settings, "output": output, "rollouts": ahead})
    assert [line["staleness"] for line in record(output)] == [0.0, 1.0, 1.0]
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (output / name).read_bytes() == (ahead / name).read_bytes()


def test_sampling_alone_goes_on_where_it_was_stopped(model, tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {**WITH_GRPO, "model": model, "rollouts_only": "true"}
    here(capsys, "stage_a", {**settings, "output": whole})
    here(capsys, "stage_a", {**settings, "output": broken})
    (broken / "finished.json").unlink()
    RolloutLog(broken / "rollouts").files()[3].unlink()  # as where it was killed before it was written
    assert "resuming after step 2 of 3" in here(capsys, "stage_a", {**settings, "output": broken})
    for name in ("metrics.jsonl", "rollouts/step-000003.jsonl.gz"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    again = here(capsys, "stage_a", {**settings, "output": broken})
    assert "finished after 3 steps; the rollouts are in its folder rollouts/" in again
    assert "max_steps: the run has done 3 steps, more than 2" in refused(
        capsys, "stage_a", {**settings, "output": broken, "max_steps": 2}
    )
    assert len(RolloutLog(broken / "rollouts").files()) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rollouts": "/nowhere/run"}, "rollouts: there is no folder /nowhere/run"),
        ({"batch_size": 8}, "has 4 prompts a step, not 8; set batch_size=4"),
        ({"temperature": 0.5}, "was sampled at 1, not 0.5; set temperature=1"),
        ({**WITH_GRPO}, "has 1 completion per prompt, not 2; use algo=ppo"),
        ({"checkpoint.best": "heldout/greedy/reward"}, "checkpoint.best: with rollouts= nothing is evaluated"),
        (
            {"ray.inline": "true", "rollout.workers": 2, "profile": "2-4"},
            "profile: the run has 3 steps, fewer than profile=2-4; name steps up to 3, or true",
        ),
        ({"rollouts_only": "true"}, "rollouts_only: with rollouts= nothing is sampled"),
    ],
)
def test_rollouts_that_do_not_fit_are_refused(model, run, tmp_path, capsys, settings, words):
    said = refused(capsys, "stage_a", {"model": model, "output": tmp_path / "run", **REPLAY, "rollouts": run, **settings})
    assert words in said
    assert not (tmp_path / "run").exists()


def test_rollouts_of_another_vocabulary_form_or_with_holes_are_refused(model, run, tmp_path, capsys):
    settings = {"output": tmp_path / "run", **REPLAY, "rollouts": run}
    other = tmp_path / "other"
    shutil.copytree(model, other)
    swap = (other / "tokenizer.json").read_text().replace('"a":', '"@":').replace('"b":', '"a":').replace('"@":', '"b":')
    (other / "tokenizer.json").write_text(swap)
    assert "was sampled with another vocabulary than that of" in refused(capsys, "stage_a", {**settings, "model": other})
    lists = {key: value for key, value in settings.items() if "think_tokens" not in key}
    said = refused(capsys, "stage_b", {**lists, "max_prompt_tokens": 1500, "model": model})
    assert "holds answers of the form yes_no, not permutation" in said
    holes = tmp_path / "holes"
    shutil.copytree(run, holes)
    (holes / "rollouts" / "step-000001.jsonl.gz").unlink()
    said = refused(capsys, "stage_a", {**settings, "model": model, "rollouts": holes})
    assert "has the rollouts of steps 2, 3 only" in said
    assert "sample it again with tracking.rollouts_every=1" in said
    said = refused(capsys, "stage_a", {**settings, "model": model, "output": run, "fresh": "true"})
    assert "is this run's own output" in said
