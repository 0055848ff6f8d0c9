"""The training loop end to end on real components: Ray with vLLM and DeepSpeed, and inline. Models are tiny and random by
default.
"""

import math
import signal
import subprocess
import time
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from r0.actors.learner.update import Updater
from r0.actors.rollout.hf_engine import HfEngine
from r0.launch import main
from r0.runs.rollout_log import RolloutLog
from tests.helpers import tiny_model
from tests.launching import command, environment, here, launch_here, record, refused, steps
from tests.traces import check_trace

pytestmark = pytest.mark.ray

SMALL = {
    "batch_size": 4, "max_steps": 3, "builtin_rows": 80, "heldout_share": 0.2, "max_prompt_tokens": 400, "max_new_tokens": 12,
    "learning_rate": 1e-3, "kl_coef": 0.0, "temperature": 1.0, "eval.every": 2, "eval.tasks": 4, "checkpoint.every": 1,
    "system_prompt": "Judge.", "reward.max_think_tokens": 100, "max_think_tokens": 100, "reward.min_think_tokens": 1,
}  # fmt: skip
GRPO = {**SMALL, "algo": "grpo", "grpo.num_generations": 3, "grpo.advantage": "rloo"}
PPO = {**SMALL, "algo": "ppo", "kl_coef": 0.02, "ppo.num_ppo_epochs": 2, "ppo.num_mini_batches": 2}
INLINE = {"ray.inline": "true", "rollout.engine": "hf"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), hidden=128)


def launch(settings, model, output):
    return launch_here("stage_a", {"model": model, "output": output, **settings})


def test_grpo_on_ray_with_two_engines_two_ranks_zero_3_and_lora(ray_session, model, tmp_path, capsys):
    output = tmp_path / "run"
    wide = {"rollout.workers": 2, "learner.ranks": 2, "learner.zero_stage": 3, "learner.lora.r": 4, "reward.workers": 2}
    launch({**GRPO, **wide, "profile.steps": "2-3"}, model, output)
    two_each = [f"{role} {index}" for role in ("rollout", "reward", "learner") for index in (0, 1)]
    check_trace(output, ["driver", *two_each], steps=[2, 3])
    lines = steps(output)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert max(line["gap"] for line in lines) < 1e-3  # float32: the engines hold the adapted weights after every sync
    assert any("heldout/greedy/reward" in line for line in record(output))
    for mode in ("greedy", "sampled"):
        assert list(RolloutLog(output / "heldout" / mode).files()) == [0, 2, 3]
    assert (output / "model" / "adapter" / "adapter_config.json").is_file()
    assert_loads(output / "model")
    again = here(capsys, "stage_a", {"model": model, "output": output, **GRPO, **wide})
    assert "finished after 3 steps" in again  # nothing is done again


@pytest.mark.slow
def test_ppo_on_ray_with_critic_and_reference(ray_session, model, tmp_path):
    output = tmp_path / "run"
    launch(PPO, model, output)
    lines = steps(output)
    assert len(lines) == 3
    assert max(line["gap"] for line in lines) < 1e-3
    assert all({"value_loss", "explained_variance", "kl"} <= set(line) for line in lines)
    assert lines[-1]["kl"] != 0.0


@pytest.mark.parametrize("settings", [GRPO, pytest.param(PPO, marks=pytest.mark.slow)], ids=["grpo", "ppo"])
def test_a_run_that_was_terminated_repeats_the_record_bit_for_bit(model, tmp_path, settings):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {**settings, **INLINE, "max_steps": 5}
    launch(settings, model, whole)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    arguments = command("stage_a", {"model": model, "output": broken, **settings})
    process = subprocess.Popen(arguments, env=environment(), **pipes)
    wait_for(lambda: (broken / "metrics.jsonl").is_file() and len(steps(broken)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode in (128 + signal.SIGTERM, 0)
    assert len(steps(broken)) < 5
    launch(settings, model, broken)
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_zero_spread_groups_are_refilled(model, tmp_path):
    output = tmp_path / "run"
    launch({**GRPO, **INLINE, "grpo.refill_rounds": 2, "max_steps": 1}, model, output)
    (line,) = steps(output)
    without = round(line["zero_spread_share"] * GRPO["batch_size"])
    assert line["skipped_groups"] == without - 1 > 0  # one of them is computed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "/nowhere/at/all"}, "there is no folder /nowhere/at/all"),
        ({"data": "/nowhere.jsonl"}, "/nowhere.jsonl"),
        ({"max_prompt_tokens": 4000}, "positions"),
        ({"reward.name": "stage_aa"}, "did you mean 'stage_a'?"),
        ({"learner.gpus": 1}, "and Ray has 0"),
        ({"batch_size": 4000}, "batch_size"),
        ({"checkpoint.best": "heldout/greedy/reward", "eval.every": 0}, "checkpoint.best: nothing is evaluated"),
        ({"checkpoint.best": "heldout/greedy/reward", "heldout_share": 0.0}, "checkpoint.best: nothing is evaluated"),
    ],
)
def test_bad_input_is_refused_before_anything_loads(ray_session, model, tmp_path, capsys, settings, words):
    address = {} if "learner.gpus" in settings else INLINE
    said = refused(capsys, "stage_a", {"model": model, "output": tmp_path / "run", **GRPO, **address, **settings})
    assert words in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_rollouts_of_a_run_can_be_read_and_another_configuration_is_refused(model, tmp_path, capsys):
    output = tmp_path / "run"
    launch({**GRPO, **INLINE, "max_steps": 2}, model, output)
    assert "reward" in here(capsys, "rollouts", {"run": output, "step": 2, "worst": 3})
    said = refused(capsys, "stage_a", {"model": model, "output": output, **GRPO, **INLINE, "max_steps": 2, "seed": 7})
    assert "seed" in said
    assert "fresh=true" in said


def wait_for(condition, process, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the run did not come to its second step"
        time.sleep(0.02)


def assert_loads(folder):
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(tensor.numel() and tensor.isfinite().all() for tensor in weights.values())
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == folder.stat().st_mode & 0o666  # others may read it


def inline(settings, model, output) -> int:
    """The run in this process, so that parts of it can be made to fail; returns its exit code."""
    given = {"model": model, "output": output, **settings, **INLINE}
    return main(["stage_a", *(f"{key}={value}" for key, value in given.items())])


@pytest.mark.parametrize("settings", [GRPO, PPO], ids=["grpo", "ppo"])
def test_log_probabilities_that_are_no_numbers_end_a_run_before_they_are_learned(model, tmp_path, monkeypatch, capsys, settings):
    sampled = HfEngine._sampled

    def spoilt(engine, row):
        one = sampled(engine, row)
        return replace(one, logprobs=(math.nan, *one.logprobs[1:])) if one.version == 1 else one

    monkeypatch.setattr(HfEngine, "_sampled", spoilt)
    assert inline({**settings, "eval.every": 0}, model, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "step 2: the engine gave task " in said
    assert "Traceback" not in said
    assert len(steps(tmp_path / "run")) == 1
    (kept,) = (tmp_path / "run" / "bad_batches").iterdir()
    assert kept.name == "step-000002.jsonl.gz"


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_loss_that_is_no_number_stops_a_run_or_is_skipped(model, tmp_path, monkeypatch, capsys, on_nan):
    row, steps_seen = Updater._policy_row, []

    def spoilt(updater, batch, *rest):
        if batch not in steps_seen:
            steps_seen.append(batch)
        loss, logp_C = row(updater, batch, *rest)
        return loss * (math.nan if len(steps_seen) == 2 else 1.0), logp_C

    monkeypatch.setattr(Updater, "_policy_row", spoilt)
    code = inline({**GRPO, "on_nan": on_nan, "eval.every": 0}, model, tmp_path / "run")
    said = capsys.readouterr()
    lines = record(tmp_path / "run")
    assert "step 2: the loss is nan (task " in said.err + said.out
    assert "Traceback" not in said.err
    assert [path.name for path in (tmp_path / "run" / "bad_batches").iterdir()] == ["step-000002.jsonl.gz"]
    if on_nan == "stop":
        assert (code, [line["step"] for line in lines]) == (2, [1])
    else:
        assert (code, [line["skipped_updates"] for line in lines]) == (0, [0.0, 1.0, 0.0])
        assert "loss" not in lines[1]
        assert_loads(tmp_path / "run" / "model")
