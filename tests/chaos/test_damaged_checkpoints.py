"""A run whose newest checkpoint was damaged goes on from the one before and ends byte for byte like an undisturbed run."""

import resource
import shutil
import subprocess

import pytest

from tests import launching
from tests.launching import command, environment, here, refused
from tests.small_run import PPO_INLINE

pytestmark = pytest.mark.ray

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
    said = here(capfd, "stage_a", {"model": model, "output": tmp_path / "run", **PPO_INLINE})
    assert "damaged" in said
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (whole / file).read_bytes()


def test_where_none_is_sound_the_run_is_refused(model, whole, tmp_path, capsys):
    newest = unfinished(whole, tmp_path / "run")
    for folder in newest.parent.iterdir():
        (folder / "learner.json").write_text("")
    said = refused(capsys, "stage_a", {"model": model, "output": tmp_path / "run", **PPO_INLINE})
    assert "no checkpoint is sound" in said
    assert "learner.json has 0 bytes" in said
    assert "fresh=true" in said


def test_where_the_disk_takes_no_more_the_earlier_checkpoints_stay_and_the_run_can_go_on(model, whole, tmp_path):
    largest = (whole / "checkpoints" / "step-00000001" / "rank0.safetensors").stat().st_size
    stopped = unfinished(whole, tmp_path / "run")
    shutil.rmtree(stopped)
    arguments = command("stage_a", {"model": model, "output": tmp_path / "run", **PPO_INLINE})
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))}
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=300, **limits)
    assert done.returncode == 2, done.stderr
    assert "the checkpoint cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    left = sorted(path.name for path in stopped.parent.iterdir())
    assert left == ["step-00000001", "step-00000002"]
    launching.launch_here("stage_a", {"model": model, "output": tmp_path / "run", **PPO_INLINE})
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
