"""All of benchmarks/real.py: its steps with tiny models on ten queries, in this process, with transformers' engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks import real
from benchmarks.real_parts.steps import plan
from tests.helpers import tiny_model
from tests.real_data import here, real_data
from tests.tiny_encoder import tiny_bert

SMALL = {
    "max_steps": 1, "epochs": 1, "batch_size": 2, "micro_batch_size": 2, "max_prompt_tokens": 300, "max_new_tokens": 8,
    "train_group_size": 2, "candidates": 2, "eval_lists": 1, "max_think_tokens": 8, "dtype": "fp32", "log_every": 1,
}  # fmt: skip
SECTIONS = {
    "rollout": {"engine": "hf", "dtype": "fp32"}, "learner": {"dtype": "fp32"}, "grpo": {"num_generations": 2},
    "eval": {"every": 1, "tasks": 1}, "reward": {"min_think_tokens": 1},
    "teacher": {"max_prompt_tokens": 300, "max_new_tokens": 8, "rollout": {"engine": "hf"}},
}  # fmt: skip


def small_configs(folder: Path) -> Path:
    """The shipped configurations with the same keys and small values."""
    folder.mkdir()
    for path in (real.ROOT / "configs" / "real").glob("*.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        values |= {key: value for key, value in SMALL.items() if key in values}
        values |= {key: values[key] | section for key, section in SECTIONS.items() if key in values}
        (folder / path.name).write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


def test_every_step_runs_and_the_table_has_every_row(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, output = real_data(tmp_path / "beir"), tmp_path / "out"
    model, encoder = tiny_model(tmp_path / "tiny", arch="llama"), tiny_bert(tmp_path / "encoder")
    given = {"data": data, "model": model, "encoder": encoder, "output": output, "configs": small_configs(tmp_path / "c")}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    code = real.main(words, here)
    said = capsys.readouterr()
    logs = sorted((output / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    assert code == 0, said.err + logs[-1].read_text()[-3000:]
    for step in plan(real.setting(real.parser().parse_args(words))):
        assert (output / "done" / f"{step.name}.json").is_file(), step.name
        if step.title:
            row = next(line for line in said.out.splitlines() if re.split(" {2,}", line)[0] == step.title)
            assert 0.0 <= float(row.removeprefix(step.title).split()[0]) <= 1.0
    assert json.loads((output / "runs" / "rank_stage_a" / "summary.json").read_text())["new_tokens_a_query"] > 0
    before = {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*")}
    assert real.main(words, here) == 0
    assert {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*")} == before
