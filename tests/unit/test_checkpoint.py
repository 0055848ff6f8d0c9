"""Checkpoints are complete or missing, verified before use, written in the background, and the last k and the best are kept."""

import json
import shutil

import pytest

from r0.errors import UserError
from r0.runs.checkpoint import Checkpoints, sound_checkpoint
from r0.storage.manifest import entry


class Counter:
    """A learner whose whole state is a number; it can refuse to write, and take its time."""

    def __init__(self, value=0, full_disk=False, slow=False):
        self.value, self.full_disk, self.slow = value, full_disk, slow

    def save(self, directory):
        self.directory, self.copied = directory, self.value

    def saved_files(self, wait):
        if self.slow and not wait:
            return None
        with open(f"{self.directory}/value", "w") as stream:
            stream.write(f"{self.copied:<100}")
        if self.full_disk:
            raise OSError(28, "No space left on device")
        from pathlib import Path

        return {"value": entry(Path(self.directory) / "value")}

    def load(self, directory):
        with open(f"{directory}/value") as stream:
            self.value = int(stream.read())


def save(checkpoints, value, step, metric=None):
    """Write a complete checkpoint; its folder."""
    learner = Counter(value)
    checkpoints.save(learner, step, metric)
    checkpoints.publish(learner, wait=True)
    return checkpoints.directory / f"step-{step:08d}"


def restored(checkpoints):
    """The step of the checkpoint that is restored, and the state in it."""
    learner = Counter()
    return checkpoints.restore(learner), learner.value


def test_the_newest_is_restored_and_the_last_k_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(checkpoints, step * 10, step)
    assert checkpoints.steps() == [2, 3]
    assert restored(checkpoints) == (3, 30)


def test_without_a_checkpoint_the_run_starts_at_step_0(tmp_path):
    assert restored(Checkpoints(tmp_path, keep=1)) == (0, 0)


def test_a_checkpoint_holds_the_state_of_its_step_and_counts_once_it_is_written(tmp_path):
    checkpoints, learner = Checkpoints(tmp_path, keep=2), Counter(10, slow=True)
    checkpoints.save(learner, 1)
    learner.value = 11  # training goes on
    checkpoints.publish(learner)
    assert checkpoints.steps() == []
    assert restored(Checkpoints(tmp_path / "copy", keep=2)) == (0, 0)
    checkpoints.publish(learner, wait=True)
    assert checkpoints.steps() == [1]
    assert restored(checkpoints) == (1, 10)


def test_a_second_save_waits_for_the_first(tmp_path):
    checkpoints, learner = Checkpoints(tmp_path, keep=2), Counter(10, slow=True)
    checkpoints.save(learner, 1)
    learner.value = 20
    checkpoints.save(learner, 2)
    assert checkpoints.steps() == [1]
    checkpoints.publish(learner, wait=True)
    assert checkpoints.steps() == [1, 2]


def test_the_best_is_kept_besides_the_newest_also_by_a_resumed_run(tmp_path):
    for step, metric in ((1, 0.2), (2, 0.9), (3, None), (4, 0.5), (5, 0.6)):
        checkpoints = Checkpoints(tmp_path, keep=1)
        save(checkpoints, step, step, metric)
        assert checkpoints.best() == (0.2 if step == 1 else 0.9)
    assert checkpoints.steps() == [2, 5]


def test_values_of_another_metric_and_nan_are_not_the_best(tmp_path):
    save(Checkpoints(tmp_path, keep=1, best="reward"), 1, 1, 1.2)
    accuracy = Checkpoints(tmp_path, keep=1, best="accuracy")
    assert accuracy.best() is None
    for step, metric in ((2, float("nan")), (3, 0.3), (4, 0.9), (5, 0.5)):
        save(accuracy, step, step, metric)
    assert accuracy.best() == 0.9
    assert accuracy.steps() == [4, 5]


def test_a_failed_write_leaves_the_earlier_checkpoint_and_nothing_that_looks_complete(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 10, 1)
    full = Counter(20, full_disk=True)
    checkpoints.save(full, 2)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoints.publish(full, wait=True)
    assert [path.name for path in checkpoints.directory.iterdir()] == ["step-00000001"]
    save(checkpoints, 20, 2)  # the failed one does not stand in the way
    assert restored(checkpoints) == (2, 20)


def test_what_a_killed_run_left_half_written_is_deleted(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, 10, 1)
    checkpoints.save(Counter(20), 2)
    again = Checkpoints(tmp_path, keep=2)
    assert restored(again) == (1, 10)
    assert [path.name for path in again.directory.iterdir()] == ["step-00000001"]


def flip(file, where=0.5):
    content = bytearray(file.read_bytes())
    content[int(len(content) * where)] ^= 4
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-3])


def empty(file):
    shutil.rmtree(file.parent)
    file.parent.mkdir()


DAMAGES = {
    "flipped early": lambda file: flip(file, 0.1),
    "flipped late": lambda file: flip(file, 0.9),
    "cut": cut,
    "missing": lambda file: file.unlink(),
    "replaced": lambda file: file.write_bytes(b"\x80\x04cos\nsystem\n"),
    "folder emptied": empty,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["value", "state.json", "manifest.json", "metrics.jsonl"])
def test_a_damaged_checkpoint_is_named_and_renamed_and_the_one_before_is_used(tmp_path, name, damage):
    said = []
    checkpoints = Checkpoints(tmp_path, keep=2, say=said.append)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    save(checkpoints, 10, 1)
    newest = save(checkpoints, 20, 2)
    DAMAGES[damage](newest / name)
    assert restored(checkpoints) == (1, 10)
    (sentence,) = said
    assert f"{newest} is damaged: " in sentence
    assert (name in sentence) or "manifest.json" in sentence
    assert (checkpoints.directory / "damaged-step-00000002").is_dir()
    save(checkpoints, 30, 2)  # the repeated step is saved again
    assert restored(checkpoints) == (2, 30)


def test_where_no_checkpoint_is_sound_the_run_does_not_start_over(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    flip(save(checkpoints, 10, 1) / "value")
    cut(save(checkpoints, 20, 2) / "value")
    for _ in range(2):  # and it says so again
        with pytest.raises(UserError, match=r"no checkpoint is sound .*fresh=true"):
            checkpoints.restore(Counter())
    assert checkpoints.steps() == [1, 2]


def test_the_record_is_restored_from_the_checkpoint(tmp_path):
    record = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1, "loss": 0.5}\n', '{"step": 2, "loss": 0.25}\n', '{"step": 3, "loss": 0.125}\n']
    record.write_text("".join(lines[:2]))
    said = []
    checkpoints = Checkpoints(tmp_path, keep=2, say=said.append)
    save(checkpoints, 20, 2)
    record.write_text("".join(lines))
    restored(checkpoints)
    assert record.read_text() == "".join(lines), "what was recorded after the checkpoint is the recorder's to drop"
    assert not said
    for damaged in ("", lines[0], lines[0] + lines[1].replace("0.25", "0.75"), lines[1], None):
        record.unlink() if damaged is None else record.write_text(damaged)
        restored(checkpoints)
        assert record.read_text() == "".join(lines[:2])
        assert "restored from step-00000002" in said.pop()


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    path = checkpoints.directory / "step-00000001"
    path.mkdir(parents=True)
    (path / "state.json").write_text(json.dumps({"format": 1, "step": 1}))
    with pytest.raises(UserError, match=r"format 1.*fresh=true"):
        checkpoints.restore(Counter())


def test_a_new_run_starts_from_another_runs_checkpoint_or_its_newest_sound_one(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.jsonl").write_text('{"step": 1}\n')
    old = Checkpoints(tmp_path / "old", keep=3)
    first, newest = save(old, 10, 1), save(old, 20, 2)
    for number, (folder, expected) in enumerate([(first, (1, 10)), (tmp_path / "old", (2, 20))]):
        learner = Counter()
        new = Checkpoints(tmp_path / f"new{number}", keep=1)
        new.directory.mkdir(parents=True)
        assert (new.restore(learner, folder), learner.value) == expected
        assert (tmp_path / f"new{number}" / "metrics.jsonl").read_text() == '{"step": 1}\n'
    flip(newest / "value")
    assert sound_checkpoint(tmp_path / "old") == first
    assert newest.is_dir(), "another run's folders are not renamed"
    with pytest.raises(UserError, match=r"checkpoint.resume: .*step-00000002 is damaged: the content of value"):
        sound_checkpoint(newest)
    with pytest.raises(UserError, match=r"neither a checkpoint nor a run"):
        sound_checkpoint(tmp_path)


def test_a_runs_own_checkpoint_goes_before_another_runs(tmp_path):
    save(Checkpoints(tmp_path / "old", keep=3), 10, 1)
    own = Checkpoints(tmp_path / "own", keep=3)
    save(own, 50, 5)
    learner = Counter()
    assert (own.restore(learner, tmp_path / "old"), learner.value) == (5, 50)
