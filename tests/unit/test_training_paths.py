"""The configuration that ranks get: absolute paths, since Ray's workers do not run in the folder of the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from r0.config import RankKeys, SftConfig, StageCConfig
from r0.supervised.training import run as training


class Told(Exception):
    """Ends the run where the ranks would start."""


def rank_config(config: RankKeys, tmp_path: Path) -> RankKeys:
    """The configuration that the ranks get."""
    found = []

    def learn(job, *_):
        found.append(job.config)
        raise Told

    data = training.Data(1, {}, "data")
    with pytest.raises(Told):
        training.run("sft", config.model_copy(update={"output": str(tmp_path / "run")}), tmp_path, "", lambda _: data, learn)
    return found[0]


def test_ranks_get_absolute_paths_of_data_runs_and_judgements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beir").mkdir()
    for name in ("bm25.trec", "mine.tsv"):
        (tmp_path / name).write_text("")
    config = rank_config(StageCConfig(data="beir", run="bm25.trec", qrels="mine.tsv"), tmp_path)
    assert (config.data, config.run, config.qrels) == tuple(str(tmp_path / name) for name in ("beir", "bm25.trec", "mine.tsv"))


def test_the_built_in_task_and_the_name_of_a_split_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("builtin", "test"):
        (tmp_path / name).mkdir()
    config = rank_config(SftConfig(), tmp_path)
    assert (config.data, config.run, config.qrels) == ("builtin", None, "test")
