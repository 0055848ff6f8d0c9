"""Annotation on real engines: a teacher that knows the task builds a warm start from judgements and a run alone."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from r0.config import ConvertConfig
from r0.data.builtin.convert import RUN_NAME, convert_builtin
from r0.launch import main
from tests.helpers import tiny_model
from tests.launching import command, environment, launch, launch_here, record

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder with a run: 25 queries with 4 documents each; grade 2 connects the query's concepts."""
    folder = tmp_path_factory.mktemp("data") / "beir"
    convert_builtin(ConvertConfig(input="builtin", output=str(folder), rows=25, seed=3))
    return folder


def settings(beir: Path, output: Path, **changes: object) -> dict[str, object]:
    return {
        "model": "r0-tiny", "data": beir, "run": beir / RUN_NAME, "relevance_threshold": 2, "samples": 4, "temperature": 0.7,
        "max_new_tokens": 160, "output": output, "ray.inline": "true", "rollout.max_num_seqs": 16, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(beir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nothing disturbed, by vLLM in one process; its folder, and what it said."""
    output = tmp_path_factory.mktemp("whole") / "run"
    return output, launch_here("annotate", settings(beir, output)).stdout


def pairs(output: Path) -> dict[str, dict]:
    return {line["pair"]: line for line in record(output, "annotations.jsonl")}


def test_a_beir_user_gets_a_warm_start(whole: tuple[Path, str], beir: Path, tmp_path: Path) -> None:
    output, said = whole
    summary = json.loads((output / "summary.json").read_text())
    rows = record(output, "rows.jsonl")
    assert summary["pairs"] == 100
    assert summary["agreement_of_readable"] > 0.9
    assert len(rows) == sum(summary["kept"].values()) > 90
    assert all((row["answer"] == "yes") == bool(row["label"]) and row["think"] for row in rows)
    assert summary["samples"] == sum(len(line["samples"]) for line in pairs(output).values()) < 140  # not four of every pair
    assert "agreement with the known label: " in said
    assert "tokens a second" in said
    student = tiny_model(tmp_path / "student", scale=0.02)
    warm: dict[str, object] = {
        "data": output / "rows.jsonl", "model": student, "output": tmp_path / "warm", "heldout_share": 0.0, "batch_size": 16,
        "learning_rate": 3e-3, "max_steps": 6, "max_new_tokens": 300, "ray.inline": "true", "gradient_checkpointing": "false",
    }  # fmt: skip
    launch_here("sft", warm)
    losses = [line["loss"] for line in record(tmp_path / "warm") if "loss" in line]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.5
    assert (tmp_path / "warm" / "model" / "model.safetensors").is_file()


def test_a_finished_run_is_not_done_again_and_other_settings_are_refused(
    whole: tuple[Path, str], beir: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(command("annotate", settings(beir, whole[0]))[3:]) == 0
    assert "finished before" in capsys.readouterr().out
    assert main(command("annotate", settings(beir, whole[0], samples=2))[3:]) == 2
    assert "samples (4 there, 2 here)" in capsys.readouterr().err


def interrupt(values: dict[str, object], output: Path, after: int) -> bytes:
    """Begin a run, end it with Ctrl-C when so many pairs are done; returns its annotations."""
    file = output / "annotations.jsonl"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command("annotate", values), env=environment(), **pipes)
    end = time.monotonic() + 300
    while not file.is_file() or file.read_bytes().count(b"\n") < after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=120)
    assert process.returncode == 130, said + wrong
    assert "run the same command again to resume" in said
    assert not (output / "rows.jsonl").exists()
    return file.read_bytes()


def test_an_interrupted_run_goes_on_with_what_is_left(beir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    values = settings(beir, output, **{"rollout.engine": "hf", "rollout.max_num_seqs": 2, "format": "raw_log"})
    before = interrupt(values, output, after=1)
    with (output / "annotations.jsonl").open("ab") as file:
        file.write(b'{"pair": "0')  # as a kill at a write leaves it
    again = launch_here("annotate", {**values, "rollout.max_num_seqs": 32})
    count = before.count(b"\n")
    assert f"{count} pairs were annotated before" in again.stdout
    assert (output / "annotations.jsonl").read_bytes().startswith(before)
    assert len(pairs(output)) == 100
    done = launch_here("convert", {"input": output / "raw_log.jsonl", "output": tmp_path / "rows.jsonl"})
    assert " rows (" in done.stdout


@pytest.mark.slow
def test_two_workers_on_ray_and_an_interruption_change_nothing(whole: tuple[Path, str], beir: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    values = settings(beir, output, **{"ray.inline": "false", "rollout.workers": 2, "rollout.max_num_seqs": 4})
    interrupt(values, output, after=5)
    launch("annotate", values)
    assert (output / "rows.jsonl").read_bytes() == (whole[0] / "rows.jsonl").read_bytes()
    assert pairs(output) == pairs(whole[0])
