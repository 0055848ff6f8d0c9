"""A run whose newest checkpoint was damaged goes on from the one before and ends byte for byte like an undisturbed run."""

import resource
import shutil
import subprocess

import pytest

from tests import launching
from tests.helpers import tiny_model
from tests.launching import command, environment, here, refused

pytestmark = pytest.mark.ray

SETTINGS = {
    "batch_size": 4, "max_steps": 3, "builtin_rows": 80, "heldout_share": 0.2, "max_prompt_tokens": 400, "max_new_tokens": 8,
    "learning_rate": 1e-3, "temperature": 1.0, "eval.every": 0, "checkpoint.every": 1, "checkpoint.keep": 3,
    "system_prompt": "Judge.", "reward.max_think_tokens": 100, "max_think_tokens": 100, "reward.min_think_tokens": 1,
    "algo": "ppo", "ray.inline": "true", "rollout.engine": "hf",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    launching.launch("stage_a", {"model": model, "output": output, **SETTINGS}, 0)
    return output


def unfinished(whole, folder):
    """A copy of the run as if it had been killed after its last checkpoint; its newest checkpoint."""
    shutil.copytree(whole, folder)
    (folder / "finished.json").unlink()
    shutil.rmtree(folder / "model")
    return folder / "checkpoints" / "step-00000003"


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a flipped bit in the weights": lambda newest: flip(newest / "rank0.safetensors"),
    "no manifest": lambda newest: (newest / "manifest.json").unlink(),
    "a damaged record": lambda newest: flip(newest.parent.parent / "metrics.jsonl"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_ends_like_an_undisturbed_one(model, whole, tmp_path, capfd, damage):
    newest = unfinished(whole, tmp_path / "run")
    DAMAGES[damage](newest)
    said = here(capfd, "stage_a", {"model": model, "output": tmp_path / "run", **SETTINGS})
    assert "damaged" in said
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (whole / file).read_bytes()


def test_where_none_is_sound_the_run_is_refused(model, whole, tmp_path, capsys):
    newest = unfinished(whole, tmp_path / "run")
    for folder in newest.parent.iterdir():
        (folder / "learner.json").write_text("")
    said = refused(capsys, "stage_a", {"model": model, "output": tmp_path / "run", **SETTINGS})
    assert "no checkpoint is sound" in said
    assert "learner.json has 0 bytes" in said
    assert "fresh=true" in said


def test_where_the_disk_takes_no_more_the_earlier_checkpoints_stay_and_the_run_can_go_on(model, whole, tmp_path):
    largest = (whole / "checkpoints" / "step-00000001" / "rank0.safetensors").stat().st_size
    stopped = unfinished(whole, tmp_path / "run")
    shutil.rmtree(stopped)
    arguments = command("stage_a", {"model": model, "output": tmp_path / "run", **SETTINGS})
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))}
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=300, **limits)
    assert done.returncode == 2, done.stderr
    assert "the checkpoint cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    left = sorted(path.name for path in stopped.parent.iterdir())
    assert left == ["step-00000001", "step-00000002"]
    launching.launch("stage_a", {"model": model, "output": tmp_path / "run", **SETTINGS}, 0)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
