"""A learner's state comes back as it was, and its file can run nothing."""

import pickle

import pytest
import torch

from r0.actors.learner.state_file import read_state, write_state


def test_a_state_comes_back_bit_by_bit(tmp_path):
    adam = [{"step": torch.tensor(3.0), "exp_avg": torch.randn(4)} for _ in range(2)]
    state = {
        "updates": 7,
        "random": {"cpu": torch.get_rng_state()},
        "policy": {"masters": [torch.randn(11), torch.randn(3).bfloat16()], "adam": adam, "steps": 5},
    }
    write_state(tmp_path / "rank0.safetensors", state)
    torch.testing.assert_close(read_state(tmp_path / "rank0.safetensors"), state, rtol=0, atol=0)


def test_a_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    (tmp_path / "rank0.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Exception, match=r"(?i)header"):
        read_state(tmp_path / "rank0.safetensors")
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_is_the_systems_error(tmp_path):
    with pytest.raises(OSError, match=r"rank0.safetensors cannot be written"):
        write_state(tmp_path / "no such folder" / "rank0.safetensors", {"updates": 1})
