"""A supervised run that measures before and after training says when the model became worse on the held-out data."""

from __future__ import annotations

from pathlib import Path

import pytest

from r0.config import SftConfig
from r0.supervised.training import run as training


def line(name: str, was: float, now: float) -> str | None:
    return training.worse({f"heldout/{name}": was}, {f"heldout/{name}": now})


def test_a_fall_of_ndcg_or_a_rise_of_the_loss_is_said() -> None:
    said = line("ndcg@10", 0.616, 0.380)
    assert said is not None
    assert said.startswith("heldout/ndcg@10 was 0.616 before training and is 0.380 now")
    assert line("loss", 1.0, 1.5) is not None


def test_a_better_model_an_equal_one_and_a_change_within_the_noise_are_not() -> None:
    assert line("ndcg@10", 0.6, 0.7) is line("ndcg@10", 0.6, 0.6) is line("ndcg@10", 0.6, 0.585) is None
    assert line("loss", 1.5, 1.0) is line("loss", 1.5, 1.51) is None


def test_the_order_counts_where_the_loss_says_something_else_and_nothing_is_said_without_both_figures() -> None:
    before, after = {"heldout/ndcg@10": 0.6, "heldout/loss": 1.0}, {"heldout/ndcg@10": 0.7, "heldout/loss": 2.0}
    assert training.worse(before, after) is None
    assert training.worse({}, after) is training.worse(before, {}) is None
    assert training.worse({"heldout/mrr": 1.0}, {"heldout/mrr": 0.0}) is None


def test_the_run_says_it_at_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def learn(job, directory, *_):
        (directory.path / "model").mkdir()
        return training.TrainingResult({"heldout/loss": 1.0}, {"heldout/loss": 3.0})

    config = SftConfig(output=str(tmp_path / "run"))
    training.run("sft", config, tmp_path, "", lambda _: training.Data(1, {}, "data"), learn)
    assert "heldout/loss was 1.000 before training and is 3.000 now" in caplog.text
