"""The start of a run: checks before a folder is claimed, a signal before the first step, data that has changed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from r0.text.prompt_file import FILE
from tests.helpers import CHAT_TEMPLATE, tiny_model
from tests.launching import command, environment, launch_here, record, refused

pytestmark = pytest.mark.ray

SWITCHED = CHAT_TEMPLATE.replace(
    "assistant\n{% endif", "assistant\n{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}{% endif"
)
SFT = {
    "ray.inline": "true",
    "zero_stage": 0,
    "batch_size": 4,
    "heldout_share": 0,
    "max_prompt_tokens": 400,
    "system_prompt": "Judge.",
}
STAGE_A = {
    "ray.inline": "true", "rollout.engine": "hf", "batch_size": 4, "heldout_share": 0, "eval.every": 0, "max_new_tokens": 8,
    "max_prompt_tokens": 400, "system_prompt": "Judge.", "reward.min_think_tokens": 0, "learning_rate": 1e-4,
    "checkpoint.every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose template reads the date, and closes the thought unless it is told not to."""
    folder = tiny_model(tmp_path_factory.mktemp("model"), hidden=32, layers=1)
    (Path(folder) / "chat_template.jinja").write_text("{{ 'Today is ' ~ strftime_now('%d %b %Y') ~ '\\n' }}" + SWITCHED)
    return folder


def write_rows(path: Path, word: str = "text") -> Path:
    rows = [{"query": f"q{i}", "document": f"{word} {i}", "label": i % 2, "think": f"because {i}"} for i in range(18)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("stage_a", {"data": "rowz.jsonl", "max_prompt_tokens": 99999}, "rowz.jsonl: no such file"),
        ("stage_b", {"data": "rowz.jsonl", "model": "r0-tiny"}, "rowz.jsonl: no such file"),
        ("stage_c", {"data": "rowz.jsonl"}, "rowz.jsonl: no such file"),
        ("sft", {"data": "rowz.jsonl"}, "rowz.jsonl: no such file"),
        ("finetune", {"data": "rowz.jsonl"}, "rowz.jsonl: no such file"),
        ("finetune", {"validation": "rowz.jsonl"}, "rowz.jsonl: no such file"),
        ("esci", {"data": "rowz.parquet"}, "rowz.parquet: no such file"),
        ("annotate", {"data": "rowz.jsonl"}, "rowz.jsonl: no such file"),
        ("rerank", {"data": "rowz.jsonl"}, "rowz.jsonl: no such file"),
        ("mine", {"data": "rowz.jsonl", "source": "dense"}, "rowz.jsonl: no such file"),
        ("distill", {"data": "rowz.jsonl", "teacher.model": "./nothing"}, "rowz.jsonl: no such file"),
        ("distill score", {"data": "rowz.jsonl"}, "rowz.jsonl: no such file"),
        ("distill eval", {"data": "rowz.jsonl"}, "rowz.jsonl: no such file"),
        ("stage_a", {}, "there is no folder ./nothing"),
        ("sft", {}, "there is no folder ./nothing"),
        ("annotate", {}, "there is no folder ./nothing"),
        ("stage_a", {"model": "r0-tiny", "batch_size": 4096, "builtin_rows": 50}, "batch_size: builtin has"),
        ("sft", {"model": "r0-tiny", "batch_size": 4096, "builtin_rows": 50}, "batch_size: builtin has"),
        (
            "stage_c",
            {"model": "r0-tiny", "batch_size": 4096, "builtin_rows": 50, "max_prompt_tokens": 400},
            "batch_size: builtin has",
        ),
    ],
)
def test_cheap_checks_come_first_and_nothing_is_claimed_before_all_are_done(name, settings, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, name, {"model": "./nothing", "output": "out", **settings})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "settings"),
    [pytest.param("sft", SFT, marks=pytest.mark.slow), ("stage_a", {**STAGE_A, "max_steps": 3})],
)
def test_a_signal_during_the_start_ends_a_run_before_a_step(name, settings, model, tmp_path):
    settings = {**settings, "model": model, "data": write_rows(tmp_path / "rows.jsonl"), "output": tmp_path / "run"}
    process = subprocess.Popen(
        command(name, settings), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (tmp_path / "run" / "config.yaml").is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "step 1/" not in said
    assert not (tmp_path / "run" / "metrics.jsonl").is_file() or record(tmp_path / "run") == []
    launch_here(name, {**settings, "seed": 7})  # nothing was done, so that another configuration may begin there
    assert (tmp_path / "run" / "finished.json").is_file()


@pytest.mark.parametrize(("name", "settings", "first"), [("sft", SFT, {"max_steps": 4}), ("stage_a", STAGE_A, {"max_steps": 4})])
def test_a_run_goes_on_with_its_own_data_and_date_only(name, settings, first, model, tmp_path, capsys, monkeypatch):
    rows = write_rows(tmp_path / "rows.jsonl")
    settings = {**settings, **first, "model": model, "data": rows, "output": tmp_path / "run"}
    launch_here(name, {**settings, "chat_template_kwargs.strftime_now": "2024-01-05"})
    for part in ("finished.json", "model"):  # as if it had been interrupted behind its last checkpoint, on another day
        path = tmp_path / "run" / part
        path.rename(tmp_path / part)
    lines = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    write_rows(rows, "other")
    assert f"data: {rows} is not what this run read when it began" in refused(capsys, name, settings)
    write_rows(rows)
    monkeypatch.chdir(tmp_path)
    launch_here(name, {**settings, "data": "rows.jsonl"})
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes().startswith(lines)
    kept = {"strftime_now": "2024-01-05", "enable_thinking": True}
    for folder in (tmp_path / "model", tmp_path / "run" / "model"):
        assert json.loads((folder / FILE).read_text())["chat_template_kwargs"] == kept
    assert "strftime_now: '2024-01-05'" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_ray_job_is_refused_a_relative_output(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    said = refused(capsys, "stage_a", {**STAGE_A, "model": "r0-tiny", "output": "runs/relative", "max_steps": 1})
    assert "output: runs/relative is relative, but a Ray job runs in a temporary folder; give an absolute path" in said
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_think_is_refused_before_anything_is_claimed(model, tmp_path, capsys):
    folder = Path(tiny_model(tmp_path / "closed", hidden=32, layers=1))
    (folder / "chat_template.jinja").write_text(
        CHAT_TEMPLATE.replace("assistant\n{% endif", "assistant\n<think></think>{% endif")
    )
    rows: Mapping[str, object] = {"data": write_rows(tmp_path / "rows.jsonl"), "output": tmp_path / "run"}
    for name, settings in (("sft", SFT), ("stage_a", STAGE_A), ("annotate", {"max_new_tokens": 64})):
        assert "closes the thought before the model writes" in refused(capsys, name, {**settings, **rows, "model": folder})
        assert not (tmp_path / "run").exists()
    off = {**SFT, **rows, "model": model, "max_steps": 1, "chat_template_kwargs.enable_thinking": "false"}
    assert "the chat template closes the thought (enable_thinking=false)" in launch_here("sft", off).stdout
