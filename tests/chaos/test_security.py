"""Secrets of the environment reach no file of a run; refusals hold without assertions."""

import subprocess
import sys

import pytest

from tests.helpers import tiny_model
from tests.launching import command, environment

pytestmark = pytest.mark.ray

SECRETS = {
    "HF_TOKEN": "hf_aSecretThatNobodyMayRead",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "anotherSecretThatNobodyMayRead",
}


def test_secrets_reach_neither_the_run_nor_the_screen(tmp_path):
    settings = {
        "model": tiny_model(tmp_path / "model"), "output": tmp_path / "run", "batch_size": 4, "max_steps": 1, "builtin_rows": 80,
        "max_prompt_tokens": 400, "max_new_tokens": 8, "algo": "ppo", "ray.inline": "true", "rollout.engine": "hf",
        "tracking.wandb": "offline", "tracking.tensorboard": "true", "eval.every": 0, "system_prompt": "Judge.",
        "reward.max_think_tokens": 100, "max_think_tokens": 100, "reward.min_think_tokens": 1,
    }  # fmt: skip
    variables = {**environment(), **SECRETS}
    done = subprocess.run(command("stage_a", settings), env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    for secret in SECRETS.values():
        assert secret not in done.stdout + done.stderr
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_refusals_hold_without_assertions(tmp_path):
    model = {"model": tiny_model(tmp_path / "model"), "output": tmp_path / "run", "ray.inline": "true", "rollout.engine": "hf"}
    wrong: list[tuple[dict[str, object], str]] = [
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"data": "/nowhere.jsonl"}, "/nowhere.jsonl"),
        ({"batch_size": 0}, "batch_size"),
        ({"reward.name": "stage_aa"}, "did you mean 'stage_a'?"),
    ]
    commands = [command("stage_a", {**model, **settings})[3:] for settings, _ in wrong]
    code = f"import sys; from r0.launch import main; sys.exit([main(one) for one in {commands!r}] != [2] * {len(wrong)})"
    done = subprocess.run([sys.executable, "-O", "-c", code], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(wrong)
    for line, (_, words) in zip(said, wrong, strict=True):
        assert words in line
    assert not (tmp_path / "run").exists()
