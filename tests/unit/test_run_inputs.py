"""A run knows the files it reads, and makes way for another one as long as it holds no work."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path

import pytest

from r0.commands import distill, distill_eval, distill_score, distill_train, distill_triplets
from r0.config import (
    AnnotateConfig,
    DistillConfig,
    DistillEvalConfig,
    FinetuneConfig,
    MineConfig,
    RerankConfig,
    SftConfig,
    StageAConfig,
)
from r0.config.load import load
from r0.config.sections import Section
from r0.distill import check_scores
from r0.errors import UserError
from r0.runs import Record, RunDirectory, RunState
from r0.runs import inputs as run_inputs


def begun(run: Path, config: Section, work: bool = True) -> None:
    """A run of ``config`` in ``run`` that has done a step."""
    with RunDirectory.open(run, "command", config) as directory:
        if work:
            Record(directory.metrics_file).write(1, {"a": 1.0})


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "qrels/train.tsv"):
        (folder / name).write_text(f"of {name}\n")
    (tmp_path / "bm25.trec").write_text("of the run\n")
    return folder


def refused(run: Path, config: Section) -> str:
    with pytest.raises(UserError) as error:
        RunDirectory.open(run, "command", config)
    with pytest.raises(UserError) as looked:
        RunDirectory.look(run, "command", config)
    assert str(looked.value) == str(error.value)
    return str(error.value)


def test_a_file_that_has_changed_is_named_with_the_remedies(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("one\n")
    config = StageAConfig(data=str(rows))
    begun(tmp_path / "run", config)
    before = rows.stat()
    rows.write_text("two\n")  # as long as before
    os.utime(rows, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = refused(tmp_path / "run", config)
    assert said == (
        f"data: {rows} is not what this run read when it began; give what {tmp_path / 'run'} began with, choose another "
        "output=, or start over with fresh=true"
    )
    rows.write_text("one\n")
    with RunDirectory.open(tmp_path / "run", "command", config) as run:
        assert run.state is RunState.RESUMABLE
    rows.write_text("two\n")
    with RunDirectory.open(tmp_path / "run", "command", config, fresh=True) as run:
        assert run.state is RunState.NEW
    begun(tmp_path / "run", config)  # and the new data is what it knows now


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "../bm25.trec"])
def test_every_file_of_a_folder_that_is_read_counts(beir, tmp_path, name):
    config = StageAConfig(data=str(beir), run=str(tmp_path / "bm25.trec"))
    begun(tmp_path / "out", config)
    (beir / "qrels" / "train.tsv").write_text("not read\n")
    RunDirectory.open(tmp_path / "out", "command", config).close()
    (beir / name).write_text("changed\n")
    assert "is not what this run read when it began" in refused(tmp_path / "out", config)


def test_a_folder_whose_files_are_compressed_is_known_too(beir, tmp_path):
    for name in ("corpus.jsonl", "qrels/test.tsv"):
        (beir / f"{name}.gz").write_bytes(gzip.compress((beir / name).read_bytes()))
        (beir / name).unlink()
    config = StageAConfig(data=str(beir), run=str(tmp_path / "bm25.trec"))
    begun(tmp_path / "out", config)
    for name in ("corpus.jsonl.gz", "qrels/test.tsv.gz"):
        before = (beir / name).read_bytes()
        (beir / name).write_bytes(gzip.compress(b"changed"))
        assert f"{beir / name} is not what this run read" in refused(tmp_path / "out", config)
        (beir / name).write_bytes(before)


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        (SftConfig, {"data": "a"}),
        (RerankConfig, {"data": "a", "run": "b"}),
        (MineConfig, {"data": "a"}),
        (FinetuneConfig, {"data": "a", "validation": "b"}),
        (DistillEvalConfig, {"model": "x", "data": "a", "teacher_scores": "b", "seen": ("c",)}),
    ],
)
def test_every_command_knows_each_file_it_reads(tmp_path, model, keys):
    for name in "abc":
        (tmp_path / name).write_text(name)
    given = {
        name: tuple(str(tmp_path / one) for one in value)
        if isinstance(value, tuple)
        else value
        if name == "model"
        else str(tmp_path / value)
        for name, value in keys.items()
    }
    config = model(**given)
    begun(tmp_path / "run", config)
    kept = json.loads((tmp_path / "run" / "inputs.json").read_text())
    assert set(kept) == set(keys) - {"model"}
    for path in (file["path"] for files in kept.values() for file in files):
        before = Path(path).read_text()
        Path(path).write_text("changed")
        assert f"{path} is not what this run read" in refused(tmp_path / "run", config)
        Path(path).write_text(before)
    RunDirectory.open(tmp_path / "run", "command", config).close()


def test_a_file_more_for_a_later_epoch_is_other_data(tmp_path):
    for number in (1, 2):
        (tmp_path / f"rows-{number}.jsonl").write_text(str(number))
    config = FinetuneConfig(data=str(tmp_path / "rows-{}.jsonl"))
    begun(tmp_path / "run", config)
    (tmp_path / "rows-3.jsonl").write_text("3")
    assert "data: " in refused(tmp_path / "run", config)


def test_the_same_file_by_another_path_is_the_same_data(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    rows = tmp_path / "here" / "rows.jsonl"
    rows.write_text("one\n")
    (tmp_path / "here" / "model").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    begun(tmp_path / "run", StageAConfig(data="rows.jsonl", model="model"))
    monkeypatch.chdir(tmp_path)
    for path, model in (("here/rows.jsonl", "here/model"), (str(rows), str(tmp_path / "here" / "model"))):
        with RunDirectory.open(tmp_path / "run", "command", StageAConfig(data=path, model=model)) as run:
            assert run.state is RunState.RESUMABLE
            again = load(StageAConfig, run.config_file)
        assert (again.data, again.model) == (str(rows), str(tmp_path / "here" / "model"))  # it can be used from any folder
    rows.rename(tmp_path / "moved.jsonl")
    RunDirectory.open(tmp_path / "run", "command", StageAConfig(data="moved.jsonl", model="here/model")).close()
    (tmp_path / "rows.jsonl").write_text("other\n")
    assert "data (" in refused(tmp_path / "run", StageAConfig(data="rows.jsonl", model="here/model"))


def test_a_file_that_is_as_it_was_is_not_read_again(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("one\n")
    config = StageAConfig(data=str(rows))
    begun(tmp_path / "run", config)
    run_inputs._digest.cache_clear()
    monkeypatch.setattr(run_inputs.hashlib, "file_digest", lambda *_: pytest.fail("the file was read"))
    RunDirectory.open(tmp_path / "run", "command", config).close()


def test_a_run_of_an_earlier_version_learns_its_files_when_it_goes_on(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("one\n")
    config = StageAConfig(data=str(rows))
    begun(tmp_path / "run", config)
    (tmp_path / "run" / "inputs.json").unlink()
    RunDirectory.open(tmp_path / "run", "command", config).close()
    rows.write_text("two\n")
    assert "is not what this run read" in refused(tmp_path / "run", config)


def test_a_start_that_was_interrupted_does_not_leave_the_inputs_of_another(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("one\n")
    config = StageAConfig(data=str(rows))
    begun(tmp_path / "run", config, work=False)
    (tmp_path / "run" / "config.yaml").unlink()
    rows.write_text("two\n")
    begun(tmp_path / "run", config)
    assert RunDirectory.look(tmp_path / "run", "command", config) is RunState.RESUMABLE


def test_the_built_in_task_reads_no_file(tmp_path):
    begun(tmp_path / "run", StageAConfig())
    assert not (tmp_path / "run" / "inputs.json").exists()


# --- a start that failed


def test_a_run_without_work_makes_way_for_another_configuration_and_other_data(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("one\n")
    run = tmp_path / "run"
    begun(run, StageAConfig(data=str(rows)), work=False)
    (run / "logs").mkdir()
    (run / "logs" / "rank-0.log").write_text("a traceback\n")
    (run / "checkpoints").mkdir()
    (run / "metrics.jsonl").touch()
    rows.write_text("two\n")
    assert RunDirectory.look(run, "command", StageAConfig(data=str(rows))) is RunState.NEW
    with RunDirectory.open(run, "command", StageAConfig(data=str(rows), batch_size=2)) as opened:
        assert opened.state is RunState.NEW
        assert not (run / "logs").exists()
    begun(run, StageAConfig(data=str(rows), batch_size=2))
    assert "belongs to another configuration: batch_size (2 there, 4 here)" in refused(
        run, StageAConfig(data=str(rows), batch_size=4)
    )


@pytest.mark.parametrize(
    "name", ["checkpoints/step-00000001/state.json", "queries.jsonl", "annotations.jsonl", "thoughts.jsonl", "finished.json"]
)
def test_work_of_any_kind_is_kept(tmp_path, name):
    begun(tmp_path / "run", StageAConfig(), work=False)
    (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / name).write_text("{}\n")
    assert "belongs to another configuration" in refused(tmp_path / "run", StageAConfig(seed=7))


@pytest.mark.parametrize("work", [False, True])
def test_a_run_within_a_run_counts_by_what_it_holds(tmp_path, work):
    begun(tmp_path / "run", StageAConfig(), work=False)
    begun(tmp_path / "run" / "warm_start", SftConfig(), work)
    if work:
        refused(tmp_path / "run", StageAConfig(seed=7))
    else:
        RunDirectory.open(tmp_path / "run", "command", StageAConfig(seed=7)).close()


def test_looking_at_a_folder_writes_nothing(tmp_path):
    assert RunDirectory.look(tmp_path / "run", "command", StageAConfig()) is RunState.NEW
    assert list(tmp_path.iterdir()) == []
    begun(tmp_path / "run", StageAConfig())
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert RunDirectory.look(tmp_path / "run", "command", StageAConfig()) is RunState.RESUMABLE
    assert RunDirectory.look(tmp_path / "run", "command", StageAConfig(seed=3), fresh=True) is RunState.NEW
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before


def trained(folder: Path, step: float, size: int) -> str:
    """A model's folder whose weights are all ``step``."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(struct.pack("<f", step) * (size // 4))
    return str(folder)


@pytest.mark.parametrize("size", [4096, 3 * 2**22])
@pytest.mark.parametrize("command", [RerankConfig, StageAConfig, AnnotateConfig, FinetuneConfig])
def test_a_model_that_was_trained_further_is_another_model(tmp_path, command, size):
    (tmp_path / "rows").write_text("one\n")
    keys = {"data": str(tmp_path / "rows"), "model": trained(tmp_path / "model", 1.0, size)}
    config = command(**keys, **({"run": str(tmp_path / "rows")} if command is RerankConfig else {}))
    begun(tmp_path / "run", config)
    trained(tmp_path / "model", 1.0, size)  # the same again
    RunDirectory.open(tmp_path / "run", "command", config).close()
    trained(tmp_path / "model", 1.5, size)
    assert f"model: {tmp_path}/model/model.safetensors is not what this run read" in refused(tmp_path / "run", config)


def test_a_student_that_was_trained_longer_is_evaluated_again(tmp_path, monkeypatch):
    (tmp_path / "rows").write_text("one\n")
    (tmp_path / "test").write_text("other\n")
    config = DistillConfig(data=str(tmp_path / "rows"), test=str(tmp_path / "test"), teacher={"model": "r0-tiny"})
    (tmp_path / "train").mkdir()
    trained(tmp_path / "train" / "model", 1.0, 4096)
    begun(tmp_path / "eval", distill.eval_config(config, tmp_path, None))
    asked = []
    for module in (distill_eval, distill_score, distill_train, distill_triplets):
        monkeypatch.setattr(module, "run", lambda step, _dry_run: asked.append(step) or 0)
    monkeypatch.setattr(check_scores, "check_scores_match", lambda *_: None)
    for weights, fresh in ((1.0, False), (1.5, True)):
        trained(tmp_path / "train" / "model", weights, 4096)
        for _, step in distill._steps(config, tmp_path, None, None):
            step()
        assert isinstance(asked[-1], DistillEvalConfig)
        assert asked[-1].fresh is fresh
