from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from r0.config import (
    DemoConfig,
    DistillTrainConfig,
    RolloutsConfig,
    SftConfig,
    StageAConfig,
    StageBConfig,
    TrackingSection,
    load,
    yamlfile,
)
from r0.errors import UserError
from r0.launch import COMMANDS, default_config
from r0.records import Finish, Form, PointwiseTask, Prompt, Rollout, Sampled, Scored, Verdict
from r0.runs import (
    CardFacts,
    Clock,
    LiveLine,
    Record,
    Recorder,
    RunDirectory,
    RunState,
    default_output,
    memory_mb,
    model_card,
    progress,
    read_record,
    write_model_card,
)
from r0.runs.mirrors import TensorBoardMirror, TrackerMirror, TrackerRun
from r0.runs.resolved import to_yaml
from r0.runs.rollout_log import RolloutLog
from r0.sampling import grouped
from r0.storage import files
from r0.storage.rollout_lines import read_rollouts
from r0.text.messages import SYSTEM_PROMPTS
from tests.unit.test_rollout_log import scored

CONFIG = StageAConfig(algo="grpo")
HUNG = "import time\nclass Settings:\n    def __init__(self, **k): pass\ndef init(**k):\n    time.sleep(3600)\n"
BROKEN = "class Settings:\n    def __init__(self, **k): pass\ndef init(**k):\n    raise ConnectionError('no network')\n"


def changed(config, **values):
    return type(config).model_validate(config.model_dump() | values)


# --- the run directory


def test_a_new_run_holds_its_resolved_configuration(tmp_path):
    with RunDirectory.open(tmp_path / "a" / "run", "stage_a", CONFIG) as run:
        assert run.state is RunState.NEW
        assert run.finished() is None
    again = load.load(StageAConfig, run.config_file)
    assert again == changed(CONFIG, output=str(run.path))


SHIPPED = [pytest.param(name, default_config(name), id=name) for name in COMMANDS if default_config(name).is_file()]


@pytest.mark.parametrize(("name", "file"), SHIPPED)
def test_every_shipped_configuration_survives_yaml(name, file, tmp_path):
    config = load.load(COMMANDS[name].config, file)
    with RunDirectory.open(tmp_path / "run", name, config) as run:
        pass
    assert changed(load.load(COMMANDS[name].config, run.config_file), output=None) == config
    assert not config.system_prompt or "system_prompt: |" in run.config_file.read_text()


TEXTS = ["1e-6", "yes", "~", "", " a ", "a\n\nb  \n", "\ttab\n x", "# no comment", "a: b\n", "\n", "  a\n b"]
TEXTS += ["ключ: 值", "null", "1_000", "\u2028", "'\"", "a\\b", "\x85", "a\r\nb\n", "\x1b"]


@pytest.mark.parametrize("model", [StageAConfig, SftConfig, DemoConfig])
@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_yaml(model, text, tmp_path):
    config = model(system_prompt=text, model="1e-6", learning_rate=1e-6, run=text)
    (tmp_path / "c.yaml").write_text(to_yaml("x", config), encoding="utf-8")
    assert load.load(model, tmp_path / "c.yaml") == config


def test_commands_without_a_run_survive_yaml_too(tmp_path):
    config = RolloutsConfig(run="runs/x", step=3)
    (tmp_path / "c.yaml").write_text(to_yaml("rollouts", config), encoding="utf-8")
    assert RolloutsConfig.model_validate(yamlfile.read(tmp_path / "c.yaml").values) == config


def test_the_same_command_resumes_and_recognizes_a_finished_run(tmp_path):
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run:
        run_id = run.marker.run_id
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run:
        assert run.state is RunState.RESUMABLE
        assert run.marker.run_id == run_id
        run.finish(12, {"reward": 0.5})
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run:
        assert run.state is RunState.FINISHED
        finished = run.finished()
    assert finished is not None
    assert (finished.steps, finished.figures) == (12, {"reward": 0.5})


def test_another_configuration_is_refused_with_the_keys_that_differ(tmp_path):
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run:
        Record(run.metrics_file).write(1, {"a": 1.0})
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"seed \(42 there, 7 here\).*output=.*fresh=true"):
        RunDirectory.open(tmp_path, "stage_a", changed(CONFIG, seed=7))
    with pytest.raises(UserError, match="command \\(stage_a there, sft here\\)"):
        RunDirectory.open(tmp_path, "sft", SftConfig())
    assert (tmp_path / "config.yaml").read_bytes() == before
    RunDirectory.open(tmp_path, "stage_a", CONFIG).close()  # a refusal leaves no lock behind


def test_keys_of_how_a_run_works_may_change_on_resume(tmp_path):
    RunDirectory.open(tmp_path, "stage_a", CONFIG).close()
    other = changed(CONFIG, tracking={"wandb": "offline"}, ray={"sample_deadline_s": 5.0}, checkpoint={"keep": 5})
    with RunDirectory.open(tmp_path, "stage_a", other) as run:
        assert run.state is RunState.RESUMABLE
    assert load.load(StageAConfig, run.config_file).checkpoint.keep == 5


def test_a_run_whose_tracking_keys_had_their_former_names_is_resumed(tmp_path):
    RunDirectory.open(tmp_path, "stage_a", changed(CONFIG, tracking={"project": "p", "name": "n"})).close()
    file = tmp_path / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace("  project: p", "  wandb_project: p").replace("  name: n\n", "  wandb_name: n\n"))
    assert "wandb_name: n" in file.read_text()
    RunDirectory.open(tmp_path, "stage_a", changed(CONFIG, tracking={"project": "p", "name": "n"})).close()


def test_keys_that_a_newer_version_added_hold_their_defaults(tmp_path):
    RunDirectory.open(tmp_path, "stage_a", CONFIG).close()
    file = tmp_path / "config.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("top_p")))
    RunDirectory.open(tmp_path, "stage_a", CONFIG).close()


def test_two_runs_cannot_write_in_one_directory(tmp_path):
    with RunDirectory.open(tmp_path, "stage_a", CONFIG):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
            RunDirectory.open(tmp_path, "stage_a", CONFIG)
        with pytest.raises(UserError, match="in use"):
            RunDirectory.open(tmp_path, "stage_a", CONFIG, fresh=True)
    RunDirectory.open(tmp_path, "stage_a", CONFIG).close()


def test_a_killed_run_leaves_no_lock(tmp_path):
    code = (
        "import os, signal, sys\nfrom r0.config import StageAConfig\nfrom r0.runs import RunDirectory\n"
        "run = RunDirectory.open(sys.argv[1], 'stage_a', StageAConfig(algo='grpo'))\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run:
        assert run.state is RunState.RESUMABLE


def test_fresh_deletes_what_r0_made_and_nothing_else(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    path = tmp_path / "run"
    with RunDirectory.open(path, "stage_a", CONFIG) as run:
        Record(run.metrics_file).write(1, {"a": 1.0})
        (run.folder("checkpoints") / "x").touch()
        (path / "model").symlink_to(elsewhere)
        (path / "notes.txt").write_text("mine")
        (path / f"{files.TEMPORARY}9-x").touch()
        run.finish(1)
    with RunDirectory.open(path, "sft", SftConfig(), fresh=True) as run:
        assert run.state is RunState.NEW
    assert sorted(entry.name for entry in path.iterdir()) == [".lock", "config.yaml", "notes.txt", "run.json"]
    assert (elsewhere / "kept").is_file()
    assert load.load(SftConfig, run.config_file).fresh is False


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_not_a_run_is_never_touched(tmp_path, fresh):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"it contains thesis\.tex"):
        RunDirectory.open(tmp_path, "stage_a", CONFIG, fresh=fresh)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_whose_making_was_interrupted_is_new(tmp_path):
    RunDirectory.open(tmp_path, "stage_a", CONFIG).close()
    (tmp_path / "config.yaml").unlink()
    with RunDirectory.open(tmp_path, "stage_a", changed(CONFIG, seed=7)) as run:
        assert run.state is RunState.NEW


def test_a_file_in_the_way_gives_a_one_sentence_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is a file, not a folder"):
        RunDirectory.open(tmp_path / "file", "stage_a", CONFIG)
    with pytest.raises(UserError, match=r"a part of .* is a file"):
        RunDirectory.open(tmp_path / "file" / "run", "stage_a", CONFIG)


@pytest.mark.parametrize("call", ["mkdir", "open", "replace", "fsync"])
@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_gives_a_one_sentence_error_and_nothing_half_written(tmp_path, monkeypatch, call, code):
    """An injected fault: file permissions do not stop root, who may run this."""

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(UserError, match=f"cannot write .*{os.strerror(code)}.*output="):
            RunDirectory.open(tmp_path / "run", "stage_a", CONFIG)
    left = {entry.name for entry in (tmp_path / "run").iterdir()} if (tmp_path / "run").exists() else set()
    assert left <= {".lock"}
    with RunDirectory.open(tmp_path / "run", "stage_a", CONFIG) as run:
        assert run.state is RunState.NEW


def test_a_read_only_folder_gives_a_one_sentence_error(tmp_path):
    """In a process of its own, which gives up root's rights where it has them: permissions do not stop root."""
    code = (
        "import os, sys\nfrom r0.config import StageAConfig\nfrom r0.errors import UserError\n"
        "from r0.runs import RunDirectory\nos.geteuid() or os.setuid(65534)\n"
        "try:\n    RunDirectory.open(sys.argv[1], 'stage_a', StageAConfig(algo='grpo'))\n"
        "except UserError as error:\n    print(error)\n"
    )
    tmp_path.chmod(0o500)
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=True).stdout
    assert "Permission denied; make it writable or choose another output=" in said


def test_the_default_output_depends_on_the_configuration_only():
    path = default_output("stage_a", CONFIG)
    assert path.parent == Path("runs")
    assert path.name.startswith("stage_a-")
    assert default_output("stage_a", changed(CONFIG, fresh=True, output="x")) == path
    assert default_output("stage_a", changed(CONFIG, seed=1)) != path
    assert default_output("demo", CONFIG).name.removeprefix("demo-") != path.name.removeprefix("stage_a-")


def test_only_folders_that_fresh_knows_are_made(tmp_path):
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run, pytest.raises(ValueError, match="OWNED"):
        run.folder("misc")


# --- the record


def test_a_line_is_stable_and_exact(tmp_path):
    record = Record(tmp_path / "m.jsonl")
    record.write(1, {"b": 0.1 + 0.2, "a": 3, "nan": math.nan, "inf": -math.inf, "np": np.float64(1e-7)})
    text = (tmp_path / "m.jsonl").read_text()
    assert text == '{"step": 1, "a": 3, "b": 0.30000000000000004, "inf": null, "nan": null, "np": 1e-07}\n'


@pytest.mark.parametrize("torn", [b"", b'{"step": 6, "a"', b'{"step": 6}', b"\x00\x00\x00\n"])
def test_resuming_drops_later_and_torn_lines(tmp_path, torn):
    path = tmp_path / "m.jsonl"
    record = Record(path)
    for step in range(6):
        record.write(step, {"a": step})
    record.close()
    with path.open("ab") as stream:
        stream.write(torn)
    record = Record(path)
    record.resume(3)
    record.write(4, {"a": 40})
    assert [line["step"] for line in read_record(path)] == [0, 1, 2, 3, 4]
    assert read_record(path)[-1]["a"] == 40
    record.resume(0)
    assert read_record(path) == []


@pytest.mark.parametrize(
    ("step", "every", "hole"), [(73, 50, False), (30, 50, False), (100, 50, True), (73, 1, True), (50, 1, False)]
)
def test_a_hole_is_named_only_where_a_line_was_due(tmp_path, step, every, hole):
    record = Record(tmp_path / "m.jsonl")
    record.write(0, {"heldout/loss": 1.0})
    if step >= 50:
        record.write(50, {"loss": 1.0})
    said = record.resume(step, every)
    assert said == (
        f"{record.path}: nothing is recorded after step 50; the record has a hole up to step {step}" if hole else None
    )


def test_a_full_disk_while_running_gives_a_one_sentence_error(tmp_path):
    record = Record(tmp_path / "m.jsonl")
    record.path = Path("/dev/full")
    with pytest.raises(UserError, match="No space left on device; free space"):
        record.write(1, {"a": 1.0})


def test_the_clock_adds_up_and_starts_again():
    ticks = iter([0.0, 1.0, 5.0, 7.0])
    clock = Clock(now=lambda: next(ticks))
    with clock("sample"):
        pass
    with pytest.raises(KeyError), clock("sample"):
        raise KeyError
    assert clock.take() == {"sample": 3.0}
    assert clock.take() == {}


def test_memory_is_measured():
    assert 10 < memory_mb()["driver"] < 1e5


# --- mirrors


def wandb_run(tmp_path, mode="offline"):
    return TrackerRun("wandb", "r0", "test", "abc", str(tmp_path), {"seed": 1, "lora": None}, mode)


@pytest.mark.parametrize("fault", [HUNG, BROKEN], ids=["hangs", "raises"])
def test_a_dead_wandb_neither_stops_nor_blocks_a_run(tmp_path, monkeypatch, fault):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(fault)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    mirror = TrackerMirror(wandb_run(tmp_path, "online"), tmp_path / "wandb.log", queue_size=8, close_s=1.0)
    time.sleep(0.3)
    for step in range(3000):
        mirror.write(step, {f"metric/{i}": 0.5 for i in range(20)})
    mirror.close()
    assert mirror.dropped > 0  # a full queue drops lines instead of waiting: wandb never reads any
    assert mirror._process is not None
    assert mirror._process.poll() is not None  # nothing is left running


def test_a_tracker_that_is_not_installed_is_said_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run:
        with Recorder(run, TrackingSection(mlflow="http://nowhere", trackio=True), 1) as recorder:
            recorder.step(1, {"reward": 0.5})
        assert len(run.metrics_file.read_text().splitlines()) == 1
    assert "mlflow stopped (it is not installed: pip install mlflow" in caplog.text
    assert "trackio stopped (it is not installed: pip install trackio" in caplog.text


FIGURES = {"reward": 0.5, "heldout/greedy/ndcg@10": 0.75, "nan": math.nan}


def track(tracker, place, tmp_path):
    """Steps 1 to 3, and, as by a resumed run, 3 and 4."""
    for steps in ((1, 2, 3), (3, 4)):
        run = TrackerRun(tracker, "r0", "test", "abc", place, {"seed": 1, "lora": None, "prompt": "x" * 9000})
        mirror = TrackerMirror(run, tmp_path / "log", close_s=300.0)
        for step in steps:
            mirror.write(step, FIGURES)
        mirror.close()
        assert mirror.dropped == 0, (tmp_path / "log").read_text()


def test_mlflow_gets_every_step_and_a_resumed_run_goes_on_in_the_same_one(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed here; it is no dependency of r0")
    place = f"sqlite:///{tmp_path}/mlflow.db"
    track("mlflow", place, tmp_path)
    client = mlflow.MlflowClient(tracking_uri=place)
    (run,) = client.search_runs([client.get_experiment_by_name("r0").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["seed"]) == ("test", "FINISHED", "1")
    assert run.data.metrics == {"reward": 0.5, "heldout/greedy/ndcg_at_10": 0.75}
    assert [one.step for one in client.get_metric_history(run.info.run_id, "reward")] == [1, 2, 3, 3, 4]


def test_trackio_gets_every_step_and_a_resumed_run_goes_on_in_the_same_one(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is not installed here; it is no dependency of r0")
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    track("trackio", str(tmp_path / "trackio"), tmp_path)
    (database,) = (tmp_path / "trackio").glob("r0*.db")
    with contextlib.closing(sqlite3.connect(database)) as opened:
        rows = opened.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert [(name, step) for name, step, _ in rows] == [("test", step) for step in (1, 2, 3, 3, 4)]
    assert json.loads(rows[0][2])["reward"] == 0.5


def test_wandb_shows_the_name_that_is_given_or_the_folders(tmp_path, monkeypatch):
    mirrors_made = []
    mirror = TensorBoardMirror(tmp_path / "tb")
    monkeypatch.setattr("r0.runs.recorder.TrackerMirror", lambda run, log: mirrors_made.append(run) or mirror)
    with RunDirectory.open(tmp_path / "folder", "stage_a", CONFIG) as run:
        for name in ("mine", None):
            Recorder(run, TrackingSection(wandb="offline", name=name), 1).close()
    assert [one.name for one in mirrors_made] == ["mine", "folder"]


def test_wandb_offline_gets_every_step(tmp_path):
    mirror = TrackerMirror(wandb_run(tmp_path), tmp_path / "wandb.log", close_s=60.0)
    for step in range(3):
        mirror.write(step, {"reward": step / 2, "nan": math.nan})
    mirror.close()
    log = (tmp_path / "wandb.log").read_text()
    assert mirror.dropped == 0, log
    found = list(tmp_path.rglob("*.wandb"))
    assert found, log
    assert found[0].stat().st_size > 0


def test_tensorboard_shows_the_record(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    mirror = TensorBoardMirror(tmp_path)
    for step in range(3):
        mirror.write(step, {"reward": step / 2})
    mirror.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(point.step, point.value) for point in events.Scalars("reward")] == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_a_broken_tensorboard_does_not_stop_a_run(tmp_path):
    (tmp_path / "file").touch()
    mirror = TensorBoardMirror(tmp_path / "file")
    mirror.write(1, {"reward": 1.0})
    mirror.close()


# --- the recorder


def test_a_held_out_ranking_is_shown_beside_the_given_order(tmp_path, capsys):
    figures = {"ndcg@10_gain": 0.19, "ndcg@10": 0.81, "ndcg@10_given": 0.62, "ndcg@10_well_formed": math.nan, "format_rate": 1.0}
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run, Recorder(run, TrackingSection(), 2) as recorder:
        recorder.evaluation(0, {f"heldout/greedy/{name}": value for name, value in figures.items()})
        recorder.step(1, figures)
    out = capsys.readouterr().out
    assert "heldout/greedy: ndcg@10 0.810  ndcg@10_given 0.620  ndcg@10_well_formed nan  format_rate 1.000" in out
    assert "step 1/2  nDCG@10 0.810  format 1.00" in out


def test_the_completions_of_evaluations_are_stored_and_those_of_later_steps_dropped(tmp_path):
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run, Recorder(run, TrackingSection(), 2) as recorder:
        for step in (0, 2, 4):
            completions = {"greedy": grouped([scored()]), "sampled": grouped([scored(), scored(1)])}
            recorder.evaluation(step, {"heldout/greedy/reward": 1.2}, completions)
        recorder.resume(2)
    for mode, count in (("greedy", 1), ("sampled", 2)):
        files = RolloutLog(tmp_path / "heldout" / mode).files()
        assert list(files) == [0, 2]
        assert [one.scored for one in read_rollouts(files[2])] == [scored(), scored(1)][:count]


def test_the_recorder_separates_reproducible_values_from_timings(tmp_path, capsys):
    heldout = {"heldout/greedy/accuracy": 0.5, "heldout/greedy/format_rate": 0.9, "heldout/greedy/reward": 0.1}
    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run, Recorder(run, TrackingSection(tensorboard=True), 2) as recorder:
        recorder.resume(0)
        with recorder.clock("evaluate"):
            recorder.evaluation(0, heldout)
        for step in (1, 2):
            with recorder.clock("learn"):
                pass
            recorder.step(step, {"reward": 0.25, "kl": 0.0})
            with recorder.clock("checkpoint"):
                recorder.sync()
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert lines[0] == {"step": 0, **heldout}
    assert lines[1:] == [{"step": step, "kl": 0.0, "reward": 0.25} for step in (1, 2)]
    timings = read_record(run.timings_file)
    assert [line["step"] for line in timings] == [0, 1, 2]
    assert set(timings[0]) == {"step", "evaluate"}
    assert all({"learn", "checkpoint", "rss_mb/driver"} <= set(line) for line in timings[1:])
    out = capsys.readouterr().out
    assert "heldout/greedy: reward 0.100  accuracy 0.500" in out
    assert "step 2/2  reward 0.250  kl 0.0000  learn 0.0 s  ETA 0:00" in out


def test_a_resumed_record_equals_one_that_was_not_interrupted(tmp_path):
    def steps(recorder, first, last):
        for step in range(first, last + 1):
            recorder.step(step, {"reward": 1 / step})

    for name, parts in (("whole", [(0, 6)]), ("parts", [(0, 5), (3, 6)])):
        for done, last in parts:
            with RunDirectory.open(tmp_path / name, "stage_a", CONFIG) as run, Recorder(run, CONFIG.tracking, 6) as recorder:
                recorder.resume(done)
                steps(recorder, done + 1, last)
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "parts/metrics.jsonl").read_bytes()


def test_a_failed_rollout_write_is_raised_at_the_next_step(tmp_path, monkeypatch):
    def refuse(step, groups, texts=None):
        raise UserError("rollouts: the disk is full")

    with RunDirectory.open(tmp_path, "stage_a", CONFIG) as run:
        recorder = Recorder(run, CONFIG.tracking, 3)
        monkeypatch.setattr(recorder.rollouts, "write", refuse)
        recorder.step(1, {}, rollouts())
        with pytest.raises(UserError, match="disk is full"):
            recorder.step(2, {}, rollouts())
        recorder.close()


def rollouts():
    task, prompt = PointwiseTask(1, "q", "d", 1), Prompt((1, 2))
    sampled = Sampled((3,), (-0.5,), Finish.STOP, 0)
    return grouped([Scored(Rollout(task, 0, 0, prompt, sampled), "x", Verdict("yes", 0, True), {"format": 0.4}, 0.4)])


# --- the live line


def test_a_narrow_terminal_keeps_the_main_figures():
    ticks = iter([50.0, 52.0])
    line = LiveLine(100, 9, now=lambda: next(ticks))
    line._console.file = open(os.devnull, "w")  # noqa: SIM115 - rich's own way to be silent
    metrics = {"reward": 0.5, "accuracy": 0.75, "kl": 0.01, "gap": 2e-6}
    seconds = {"sample": 1.0, "learn": 0.5, "sync": 0.1}
    try:
        line.update(10, metrics, seconds)
        line.update(11, metrics, seconds)
    finally:
        line._console.file = None
        line.close()
    assert line.line(11, metrics, seconds) == (
        "step 11/100  reward 0.500  acc 0.75  kl 0.0100  gap 2.0e-06  sample 1.0 s · learn 0.5 s · sync 0.1 s  ETA 2:58"
    )
    narrow = line.line(11, metrics, seconds, 80)
    assert len(narrow) <= 80
    assert narrow.startswith("step 11/100  reward 0.500")
    assert narrow.endswith("ETA 2:58")
    assert len(line.line(11, metrics, seconds, 8)) == 8


def test_the_first_step_does_not_spoil_the_estimate(capsys):
    ticks = iter([100.0, 102.0, 104.0])
    line = LiveLine(103, now=lambda: next(ticks), plain_every_s=0.0)
    for step in (1, 2, 3):
        line.update(step, {}, {})
    assert capsys.readouterr().out.splitlines() == ["step 1/103", "step 2/103  ETA 3:22", "step 3/103  ETA 3:20"]


def test_the_start_of_the_workers_does_not_spoil_the_estimate_of_a_list(capsys, monkeypatch):
    clock = iter([0.0, 100.0, 100.0, 102.0, 104.0, 104.0])
    monkeypatch.setattr("r0.runs.live.time.monotonic", lambda: next(clock))
    assert list(progress(iter(range(3)), "scoring", total=103, plain_every_s=0.0)) == [0, 1, 2]
    assert capsys.readouterr().out.splitlines()[:3] == ["scoring: 1/103", "scoring: 2/103, ETA 3:22", "scoring: 3/103, ETA 3:20"]


def test_fast_steps_are_not_all_printed(capsys):
    now = [0.0]
    line = LiveLine(100, now=lambda: now[0])
    for step in range(1, 101):
        now[0] += 0.1
        line.update(step, {}, {})
    lines = capsys.readouterr().out.splitlines()
    assert 9 <= len(lines) <= 12
    assert lines[0].startswith("step 1/100")
    assert lines[-1] == "step 100/100  ETA 0:00"


def test_on_a_terminal_there_is_one_live_line():
    code = (
        "from r0.runs import LiveLine, progress\nline = LiveLine(3)\n"
        "for step in (1, 2, 3):\n    line.update(step, {'reward': step}, {})\n"
        "    list(progress([1, 2], 'evaluating'))\nline.say('[red]a note')\nline.close()\n"
    )
    import pty

    master, slave = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"})
    child.wait(60)
    os.close(slave)
    out = os.read(master, 100_000).decode()
    os.close(master)
    assert child.returncode == 0, out
    assert out.count("\x1b[2K") >= 2, out  # the line is erased and written again
    assert "reward 3.000" in out
    assert "[red]a note" in out


def test_progress_without_a_terminal_is_silent_when_quick(capsys):
    assert list(progress(range(5), "reading")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out == ""
    assert list(progress(iter(range(3)), "reading", total=3, plain_every_s=0.0)) == [0, 1, 2]
    assert "reading: 2/3, ETA 0:00" in capsys.readouterr().out


# --- the model card


def test_the_card_shows_synthetic_data_and_measures(tmp_path):
    config = DemoConfig(algo="grpo", system_prompt="one\ntwo | three")
    before, after = {"heldout/greedy/accuracy": 0.5}, {"heldout/greedy/accuracy": 0.75}
    facts = CardFacts("demo", 40, {"training rows": 18000}, before, after)
    write_model_card(tmp_path, config, facts)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "base_model" not in card.split("---")[1]
    assert "**Synthetic:** the base model r0-tiny is a toy" in card
    assert "labels are synthetic" in card
    assert "| accuracy, greedy | 0.500 | 0.750 |" in card
    assert "| `system_prompt` | one<br>two \\| three |" in card
    assert "| torch |" in card


def test_the_card_shows_the_ten_figures_that_matter_and_the_keys_that_were_set():
    kinds = (
        "accuracy",
        "accuracy_well_formed",
        "constant_answer",
        "well_formed_rate",
        "reward",
        "think_tokens",
        "cut_share",
        "tokens",
    )
    figures = {
        f"heldout/{mode}/{kind}": 0.25 for mode in ("greedy", "sampled") for kind in (*kinds, "reward/eos", "probe/format")
    }
    config = StageAConfig(algo="grpo", learning_rate=3e-6, model="somebody/model", reward={"acc_weight": 0.7})
    card = model_card(config, CardFacts("stage_a", 3, {}, figures, figures))
    shown = card.partition("## Held-out figures")[2].partition("##")[0]
    assert shown.count("| 0.250 | 0.250 |") == 10
    assert "| accuracy, greedy |" in shown
    assert "| accuracy of a constant answer |" in shown
    assert "| reward, sampled |" in shown
    assert "eos" not in shown
    assert "All figures are in the run's `metrics.jsonl`." in shown
    told = card.partition("## Configuration")[2].partition("##")[0]
    rows = dict(re.findall(r"^\| `(.*)` \| (.*) \|$", told, re.M))
    assert {"learning_rate": "3e-06", "algo": "grpo", "reward.acc_weight": "0.7"}.items() <= rows.items()
    assert not rows.keys() & {"seed", "reward.format_weight", "ray.max_restarts", "model"}
    assert "All other keys have r0's defaults" in told


def test_the_card_of_a_command_with_required_keys_shows_what_was_set():
    config = DistillTrainConfig(data="scores.jsonl", model="r0-tiny", learning_rate=1e-4)
    assert "| `learning_rate` | 0.0001 |" in model_card(config, CardFacts("distill train", 3))


def test_the_card_of_real_data_names_its_base_model():
    card = model_card(StageAConfig(algo="ppo", data="rows.jsonl"), CardFacts("stage_a", 3))
    assert "base_model: deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B" in card
    assert "Synthetic" not in card
    assert "Held-out" not in card


@pytest.mark.parametrize(("answer", "written"), [("permutation", "[2] > [1] = [3]"), ("pick", "[2]"), ("scores", '{"1": 3')])
def test_the_card_of_a_list_model_shows_answer_form_and_prompt(answer, written):
    card = model_card(StageBConfig(answer=answer), CardFacts("stage_b", 3))
    assert f"<answer>{written}" in card
    assert "reinforcement learning with a rule reward on lists of documents" in card
    assert SYSTEM_PROMPTS[Form(answer)] in card
    assert SYSTEM_PROMPTS[Form(answer)] not in model_card(
        StageBConfig(answer=answer, system_prompt="Mine."), CardFacts("stage_b", 3)
    )
