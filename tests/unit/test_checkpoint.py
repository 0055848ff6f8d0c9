"""Checkpoints are complete or missing, the last k are kept, and the newest is restored."""

import json

import pytest

from r0.errors import UserError
from r0.runs.checkpoint import Checkpoints


class Counter:
    """A learner whose whole state is a number; it can refuse to write."""

    def __init__(self, value=0, full_disk=False):
        self.value, self.full_disk = value, full_disk

    def save(self, directory):
        with open(f"{directory}/value", "w") as stream:
            stream.write(str(self.value))
        if self.full_disk:
            raise OSError(28, "No space left on device")

    def load(self, directory):
        with open(f"{directory}/value") as stream:
            self.value = int(stream.read())


def test_the_newest_is_restored_and_the_last_k_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(Counter(step * 10), step)
    assert checkpoints.steps() == [2, 3]
    learner = Counter()
    assert checkpoints.restore(learner) == 3
    assert learner.value == 30


def test_without_a_checkpoint_the_run_starts_at_step_0(tmp_path):
    assert Checkpoints(tmp_path, keep=1).restore(Counter()) == 0


def test_a_failed_write_leaves_the_earlier_checkpoint_and_nothing_that_looks_complete(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(Counter(10), 1)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoints.save(Counter(20, full_disk=True), 2)
    assert checkpoints.steps() == [1]
    assert checkpoints.save(Counter(20), 2).is_dir()  # the partial one does not stand in the way


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    path = checkpoints.save(Counter(10), 1)
    (path / "state.json").write_text(json.dumps({"format": 99, "step": 1}))
    with pytest.raises(UserError, match="format 99"):
        checkpoints.restore(Counter())
    (path / "state.json").write_text("{")
    with pytest.raises(UserError, match="delete this folder"):
        checkpoints.restore(Counter())
