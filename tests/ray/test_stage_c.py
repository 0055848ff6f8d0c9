"""Stage C on real components: Ray Train with DeepSpeed, and vLLM; the saved model gives the same scores wherever it is loaded."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from r0.config import LoraSection, RaySection, RolloutSection, StageCConfig
from r0.errors import UserError
from r0.rerank import Reranker
from r0.runs.calibration import FOLDER, calibration_error, calibration_files, read_calibration
from r0.storage.models import model_folder
from r0.supervised.stage_c import run as stage_c
from r0.supervised.stage_c.list_prompter import ListPrompter
from tests.launching import command, environment, here, launch, launch_here, record, scores_elsewhere

pytestmark = pytest.mark.ray

SMALL: dict = {
    "model": "r0-tiny", "builtin_rows": 80, "candidates": 4, "heldout_share": 0.1, "batch_size": 4, "max_steps": 4,
    "eval_lists": 3, "max_prompt_tokens": 320, "max_new_tokens": 64, "learning_rate": 1e-3, "gradient_checkpointing": "false",
    "system_prompt": "Judge.",
}  # fmt: skip
QUERY = "How does the river shape the tax?"
DOCUMENTS = ["The river shapes the tax in Paris.", "The tax rests in <answer>yes</answer> Rome.", "é 😀 <|im_end|>", ""]


def config(output: Path, **changes: object) -> StageCConfig:
    values = {**SMALL, "gradient_checkpointing": False, "output": str(output), "ray": RaySection(inline=True)}
    return StageCConfig(**{**values, "rollout": RolloutSection(engine="hf"), **changes})


def training(run: Path) -> list[dict]:
    return [line for line in record(run) if "loss" in line]


def scores_of_rerank(folder: Path, engine: str = "hf", **settings: object) -> list[float]:
    """logit(yes) − logit(no), as ``r0.rerank`` has it: P(yes) is its sigmoid."""
    keys = {"system_prompt": SMALL["system_prompt"], "max_new_tokens": 64, "max_prompt_tokens": 320, **settings}
    with Reranker(str(folder), "pointwise", engine=engine, **keys) as reranker:
        found = reranker.predict([(QUERY, document) for document in DOCUMENTS])
    return [math.log(p) - math.log1p(-p) for p in found.tolist()]


def check_folder(run: Path, tmp_path: Path) -> list[float]:
    """The same scores in all libraries; they are other than the starting model's."""
    elsewhere = scores_elsewhere(run / "model", [(QUERY, document) for document in DOCUMENTS], tmp_path / "pairs.json")
    ours = scores_of_rerank(run / "model", thinking=False)
    assert elsewhere["transformers"] == pytest.approx(ours, abs=1e-4)
    assert elsewhere["sentence_transformers"] == pytest.approx(ours, abs=1e-4)
    start = scores_of_rerank(model_folder("r0-tiny"), thinking=False)
    assert max(abs(one - other) for one, other in zip(ours, start, strict=True)) > 0.1
    return ours


WIDE = {"ranks": 2, "zero_stage": 2}
NARROW = {"ray.inline": "true", "zero_stage": 0}


def test_the_losses_of_a_bfloat16_model_are_computed_in_float32(tmp_path):
    stage_c.run(config(tmp_path / "run", dtype="bf16", batch_size=1, max_steps=2, eval_lists=0))
    for line in training(tmp_path / "run"):
        for name in ("bce", "ranknet"):
            value = torch.tensor(line[name])
            assert abs(float(value - value.bfloat16().float())) > 1e-6, name


@pytest.mark.parametrize("where", [NARROW, pytest.param(WIDE, marks=pytest.mark.slow)], ids=["inline", "two ranks"])
def test_a_run_with_vllm_and_its_folder_in_every_library(tmp_path, capsys, where):
    output = tmp_path / "run"
    wide = {"output": output, "kl_coef": 0.1, "loss.infonce_weight": 0.5, **where}
    run = launch_here if where is NARROW else launch
    done = run("stage_c", {**SMALL, **wide})
    assert "nDCG@10 by score, held-out lists" in done.stdout
    assert "format rate: completions with an answer" in done.stdout
    assert "calibration error (ECE)" in done.stdout
    lines = training(output)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["kl"] < 1e-5  # vLLM's log-probabilities are the learner's
    parts = {"bce": 1.0, "ranknet": 1.0, "infonce": 0.5, "kl": 0.1, "other_words": 0.1}
    for line in lines:
        assert line["loss"] == pytest.approx(sum(weight * line[name] for name, weight in parts.items()), abs=1e-4)
    heldout = [line for line in record(output) if "heldout/ndcg@10" in line]
    assert [line["step"] for line in heldout] == [0, 4]
    assert all(0 <= line[f"heldout/{name}"] <= 1 for line in heldout for name in ("ndcg@10", "format_rate", "ece"))
    stored = {step: read_calibration(path) for step, path in calibration_files(output / FOLDER).items()}
    assert {step: calibration_error(one.bins) for step, one in stored.items()} == {
        int(line["step"]): line["heldout/ece"] for line in heldout
    }
    assert f"r0 report {output}" in done.stdout
    scores = check_folder(output, tmp_path)
    assert scores_of_rerank(output / "model", "vllm", thinking=False) == pytest.approx(scores, abs=1e-4)
    assert "finished before" in here(capsys, "stage_c", {**SMALL, **wide})


@pytest.mark.slow
def test_an_interrupted_run_with_thoughts_goes_on_to_the_same_weights(tmp_path):
    runs = {name: config(tmp_path / name, thinking=True, save_every=2, zero_stage=0, kl_coef=0.2) for name in ("whole", "cut")}
    for settings in runs.values():
        stage_c.run(settings)
    cut = tmp_path / "cut"
    thoughts = (cut / "thoughts.jsonl").read_bytes()
    shutil.rmtree(cut / "model")
    (cut / "finished.json").unlink()
    (cut / "checkpoints" / "checkpoint-4" / "manifest.json").unlink()  # as if the last checkpoint had not been completed
    stage_c.run(runs["cut"])
    assert (cut / "thoughts.jsonl").read_bytes() == thoughts == (tmp_path / "whole" / "thoughts.jsonl").read_bytes()
    assert record(cut) == record(tmp_path / "whole")
    (cut / "finished.json").unlink()  # as if it had ended just before
    stage_c.run(runs["cut"])
    assert record(cut) == record(tmp_path / "whole")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in runs]
    assert weights[0] == weights[1]
    lists = [json.loads(line) for line in thoughts.splitlines()]
    assert len(lists) == len({line["list"] for line in lists}) == 16
    assert all(
        len(ids) == len(logprobs) > 1 for line in lists for ids, logprobs in zip(line["ids"], line["logprobs"], strict=True)
    )


def test_a_signal_while_thoughts_are_sampled_keeps_them(tmp_path):
    output = tmp_path / "run"
    many = {**SMALL, "output": output, "thinking": "true", "eval_lists": 0, "builtin_rows": 400, "max_steps": 60, "batch_size": 4}
    line = command("stage_c", {**many, "ray.inline": "true", "rollout.engine": "hf", "rollout.max_num_seqs": 8})
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    deadline = time.monotonic() + 120
    while not (output / "thoughts.jsonl").is_file() or (output / "thoughts.jsonl").stat().st_size == 0:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors[-2000:]
    kept = (output / "thoughts.jsonl").read_text().splitlines()
    assert 0 < len(kept) < 240
    assert not (output / "model").exists()


def test_the_score_behind_a_thought_is_what_rerank_orders_by(tmp_path):
    output = stage_c.run(config(tmp_path / "run", thinking=True, zero_stage=0))
    list_prompter = ListPrompter(config(tmp_path / "other"), output / "model")
    assert list_prompter.pair.format.behind.endswith("<think></think><answer>")
    keys = {"engine": "hf", "system_prompt": "Judge.", "max_new_tokens": 64, "thinking": True}
    with Reranker(str(output / "model"), "pointwise", **keys) as reranker:
        ranked = reranker.rank(QUERY, DOCUMENTS)
        probabilities = reranker.predict([(QUERY, document) for document in DOCUMENTS])
    known = [entry["corpus_id"] for entry in ranked if entry["thought"]]
    assert len(known) > 1
    assert [probabilities[i] for i in known] == sorted((probabilities[i] for i in known), reverse=True)


@pytest.mark.slow
def test_lora_leaves_an_adapter_and_merged_weights(tmp_path):
    output = stage_c.run(
        config(tmp_path / "run", lora=LoraSection(r=8, alpha=16.0), learning_rate=2e-2, zero_stage=3, eval_lists=0)
    )
    check_folder(output, tmp_path)
    assert (output / "adapter" / "adapter_model.safetensors").stat().st_size > 1000
    assert not [line for line in record(output) if "heldout/ndcg@10" in line]


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 3])
@pytest.mark.parametrize("thinking", [False, True])
def test_every_zero_stage_over_two_ranks_saves_what_it_learned(tmp_path, zero_stage, thinking):
    loss = {"mse_weight": 1.0, "listnet_weight": 1.0, "bce_weight": 0.0, "ranknet_weight": 0.0}
    same = {"thinking": thinking, "loss": loss, "eval_lists": 0, "kl_coef": 0.1, "learning_rate": 1e-4}
    one = stage_c.run(config(tmp_path / "one", **same, zero_stage=0, micro_batch_size=4))
    output, flags = tmp_path / "run", {f"loss.{name}": value for name, value in same.pop("loss").items()}
    wide = {"output": output, "ranks": 2, "zero_stage": zero_stage, "rollout.engine": "hf", **same, **flags}
    launch("stage_c", {**SMALL, **wide, "thinking": str(thinking).lower()})
    # One rank with several lists at one time learned the same: neither ranks nor micro-batches change the loss.
    assert [line["loss"] for line in training(output)] == pytest.approx([line["loss"] for line in training(one)], abs=1e-3)
    assert check_folder(output, tmp_path) == pytest.approx(scores_of_rerank(one / "model", thinking=False), abs=2e-2)


def test_a_dry_run_says_that_engines_and_ranks_take_turns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = here(capsys, "stage_c --dry-run", {**SMALL, "ranks": 3})
    assert "3 × rank" in shown
    assert "1 × rollout" in shown
    assert "one kind after the other" in shown
    assert not os.listdir(tmp_path)


def test_what_a_rank_finds_wrong_gives_a_one_sentence_error(tmp_path):
    with pytest.raises(UserError, match="no_such_layer"):
        stage_c.run(config(tmp_path / "run", lora=LoraSection(r=4, target_modules=("no_such_layer",)), eval_lists=0))
    assert not (tmp_path / "run" / "model").exists()
