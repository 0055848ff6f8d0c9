"""Supervised runs that are resumed, on one rank: after their last step, with another length, between two lines of the record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from r0.config import EsciConfig, FinetuneConfig, RaySection, SftConfig
from r0.process.signals import Stopped
from r0.runs import RunDirectory
from r0.supervised.esci import run as esci
from r0.supervised.finetune import run as finetune
from r0.supervised.sft import run as sft
from r0.supervised.training.report import ReportCallback
from tests.esci_rows import esci_file, esci_rows
from tests.helpers import tiny_model
from tests.launching import record
from tests.tiny_encoder import tiny_bert

pytestmark = pytest.mark.ray

INLINE = RaySection(inline=True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("qwen"), arch="qwen3", scale=0.02)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return esci_file(tmp_path_factory.mktemp("data") / "train.parquet", esci_rows(20))


def finetune_config(model: str, output: Path, **changes: object) -> FinetuneConfig:
    """Two steps an epoch."""
    values: dict = {
        "model": model, "output": str(output), "builtin_rows": 16, "validation": "builtin", "train_group_size": 4,
        "batch_size": 8, "micro_batch_size": 4, "max_steps": 3, "epochs": 9.0, "learning_rate": 2e-3,
        "max_prompt_tokens": 300, "ray": INLINE,
    }  # fmt: skip
    return FinetuneConfig(**{**values, **changes})


def esci_config(model: str, data: str, output: Path, **changes: object) -> EsciConfig:
    values: dict = {
        "model": model, "data": data, "output": str(output), "batch_size": 4, "micro_batch_size": 2, "max_steps": 2,
        "learning_rate": 1e-2, "heldout_share": 0.2, "max_prompt_tokens": 300, "log_every": 1, "system_prompt": "Grade.",
        "ray": INLINE,
    }  # fmt: skip
    return EsciConfig(**{**values, **changes})


def sft_config(model: str, output: Path, **changes: object) -> SftConfig:
    values: dict = {
        "model": model, "output": str(output), "system_prompt": "Judge.", "builtin_rows": 40, "heldout_share": 0.2,
        "batch_size": 4, "micro_batch_size": 2, "max_steps": 2, "learning_rate": 3e-3, "max_new_tokens": 300,
        "max_prompt_tokens": 400, "ray": INLINE,
    }  # fmt: skip
    return SftConfig(**{**values, **changes})


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("checkpoint-*"))


def rates(run: Path) -> list[float]:
    return [line["learning_rate"] for line in record(run) if "learning_rate" in line]


def lose_model(run: Path) -> None:
    """As if the run had ended while its model was written."""
    shutil.rmtree(run / "model")
    (run / "finished.json").unlink()


def figures(command: str, config: EsciConfig | SftConfig) -> dict[str, float]:
    """What a finished run keeps of its held-out figures."""
    with RunDirectory.open(Path(str(config.output)), command, config) as run:
        finished = run.finished()
    assert finished is not None
    return dict(finished.figures)


def test_a_run_whose_last_step_is_done_learns_no_more_and_saves_its_model(bert: str, tmp_path: Path) -> None:
    settings = finetune_config(bert, tmp_path)  # ends in the middle of an epoch
    finetune.run(settings)
    lines, model = record(tmp_path), weights(tmp_path)
    lose_model(tmp_path)
    finetune.run(settings)
    assert weights(tmp_path) == model
    assert checkpoints(tmp_path) == ["checkpoint-3"]
    assert record(tmp_path) == lines


def test_a_run_whose_last_step_is_done_keeps_its_heldout_figures(qwen: str, data: str, tmp_path: Path) -> None:
    settings = esci_config(qwen, data, tmp_path)
    esci.run(settings)
    lines, model, found = record(tmp_path), weights(tmp_path), figures("esci", settings)
    assert found
    lose_model(tmp_path)
    esci.run(settings)
    assert weights(tmp_path) == model
    assert figures("esci", settings) == found
    assert record(tmp_path) == lines


def test_a_longer_run_follows_its_own_schedule_and_saves_at_its_own_steps(bert: str, tmp_path: Path) -> None:
    def run(name: str, steps: int) -> None:
        finetune.run(finetune_config(bert, tmp_path / name, max_steps=steps, save_every=2, keep=9))

    run("whole", 5)
    run("longer", 1)
    run("longer", 5)
    assert checkpoints(tmp_path / "longer") == ["checkpoint-1", *checkpoints(tmp_path / "whole")]
    assert rates(tmp_path / "longer")[1:] == rates(tmp_path / "whole")[1:]
    assert rates(tmp_path / "longer")[1] > 0


def test_the_first_step_of_a_longer_run_with_deepspeed_learns(qwen: str, tmp_path: Path) -> None:
    sft.run(sft_config(qwen, tmp_path, max_steps=2))
    before = weights(tmp_path)
    sft.run(sft_config(qwen, tmp_path, max_steps=3))
    assert weights(tmp_path) != before


def stop(monkeypatch: pytest.MonkeyPatch, question: int, run: Callable[[], Path]) -> None:
    """Tell a run to stop when it asks for the ``question``-th time: at its start, and after each micro-batch of two a step."""
    asked = iter(number == question for number in range(1, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(ReportCallback, "asked", lambda *_: next(asked))
        with pytest.raises(Stopped):
            run()


@pytest.mark.parametrize("question", [4, 5, 6])  # in the middle of step 2, after it, in the middle of step 3
def test_the_record_of_a_stopped_run_is_that_of_a_whole_one(
    qwen: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: int
) -> None:
    def settings(name: str) -> EsciConfig:
        return esci_config(qwen, data, tmp_path / name, max_steps=3, log_every=3)

    esci.run(settings("whole"))
    stop(monkeypatch, question, lambda: esci.run(settings("cut")))
    assert checkpoints(tmp_path / "cut") == [f"checkpoint-{(question - 1) // 2}"]
    esci.run(settings("cut"))
    assert record(tmp_path / "cut") == record(tmp_path / "whole")


def test_a_resumed_run_counts_the_rows_of_all_its_steps(qwen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(name: str) -> SftConfig:
        return sft_config(qwen, tmp_path / name, max_new_tokens=150)

    sft.run(settings("whole"))
    stop(monkeypatch, 4, lambda: sft.run(settings("cut")))
    sft.run(settings("cut"))
    *_, last = lines = record(tmp_path / "cut")
    assert lines == record(tmp_path / "whole")
    assert last["rows"] == 8
    assert 0 < last["cut"] <= 8
    lose_model(tmp_path / "cut")
    sft.run(settings("cut"))
    assert record(tmp_path / "cut") == lines
    assert figures("sft", settings("cut"))["rows"] == 8
