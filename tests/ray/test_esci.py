"""ESCI end to end: base + adapter and the merged model have equal measures in every library, and the number of ranks changes
nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from r0.config import EsciConfig, EsciEvalConfig, RaySection
from r0.data.hashes import query_hash
from r0.errors import UserError
from r0.rerank import Reranker
from r0.runs.calibration import FOLDER, calibration_files, read_calibration
from r0.supervised.esci.data import HELDOUT, Rows
from r0.supervised.esci.evaluate import evaluate
from r0.supervised.esci.run import run
from tests.esci_rows import esci_file, esci_rows
from tests.helpers import tiny_model
from tests.launching import launch_here, record

pytestmark = pytest.mark.ray

INLINE = RaySection(inline=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"), arch="qwen3", scale=0.02)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return esci_file(tmp_path_factory.mktemp("data") / "train.parquet", esci_rows(40))


def config(model: str, data: str, output: Path, **changes: object) -> EsciConfig:
    values: dict = {
        "model": model, "data": data, "output": str(output), "batch_size": 8, "micro_batch_size": 4, "max_steps": 4,
        "learning_rate": 1e-2, "heldout_share": 0.2, "max_prompt_tokens": 500, "log_every": 1, "system_prompt": "Grade.",
    }  # fmt: skip
    return EsciConfig(**{**values, **changes})


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in record(output) if "loss" in line]


def heldout(output: Path) -> list[dict]:
    return [line for line in record(output) if "heldout/loss" in line]


def heldout_file(run: Path) -> str:
    rows = Rows(run / "data" / HELDOUT)
    kept = [rows[place] for place in range(len(rows))]
    named = [{"query": row.query, "item_text": row.item, "esci_label": "ESCI"[row.label]} for row in kept]
    return esci_file(run / "heldout.parquet", named)


def scores(path: Path) -> np.ndarray:
    """[N, 5] score and the four probabilities."""
    return np.array([[row[name] for name in ("score", *"ESCI")] for row in map(json.loads, path.read_text().splitlines())])


def check_folders(model: str, output: Path, tolerance: float = 1e-4) -> np.ndarray:
    """Base + adapter, the merged folder, sentence-transformers and r0.rerank give the scores that the ranks had in memory."""
    from sentence_transformers import CrossEncoder

    file = heldout_file(output)
    merged, _ = evaluate(EsciEvalConfig(model=str(output / "model"), data=file, save_scores_path=str(output / "merged.jsonl")))
    found = scores(output / "merged.jsonl")
    before, *_, last = heldout(output)
    assert last["heldout/loss"] == pytest.approx(merged.loss, abs=tolerance)
    assert last["heldout/ndcg"] == pytest.approx(merged.ndcg, abs=tolerance)
    assert abs(before["heldout/loss"] - last["heldout/loss"]) > 1e-3  # so the weights are the trained ones
    if (output / "adapter").exists():
        evaluate(EsciEvalConfig(model=model, adapter=str(output), data=file, save_scores_path=str(output / "adapter.jsonl")))
        assert scores(output / "adapter.jsonl") == pytest.approx(found, abs=tolerance)
    rows = Rows(output / "data" / HELDOUT)
    pairs = [(rows[place].query, rows[place].item) for place in range(len(rows))]
    assert CrossEncoder(str(output / "model"), device="cpu").predict(pairs) == pytest.approx(found[:, 0], abs=tolerance)
    with Reranker(str(output / "model"), "pointwise") as reranker:
        assert reranker.predict(pairs) == pytest.approx(found[:, 0], abs=tolerance)
    assert found[:, 1:].sum(axis=1) == pytest.approx(1, abs=1e-6)
    return found


def test_what_is_learned_is_scored_alike_with_the_adapter_and_merged(model: str, data: str, tmp_path: Path) -> None:
    output = run(config(model, data, tmp_path / "run", max_steps=30, batch_size=16, lora={"r": 16, "dropout": 0.0}, ray=INLINE))
    check_folders(model, output)
    first, *_, last = heldout(output)
    assert last["heldout/accuracy"] > 0.5 > 0.3 > first["heldout/accuracy"]
    assert last["heldout/ndcg@10"] > first["heldout/ndcg@10"]
    stored = {step: read_calibration(path) for step, path in calibration_files(output / FOLDER).items()}
    assert list(stored) == [line["step"] for line in heldout(output)]
    for line in heldout(output):  # what the report shows is what the record says
        found = stored[line["step"]]
        counts = np.array(found.confusion)
        assert np.trace(counts) / counts.sum() == pytest.approx(line["heldout/accuracy"])
        assert sum(count for count, _, _ in found.bins) == counts.sum()
    training = {query_hash(query) for query in Rows(output / "data" / "train.arrow").column("query")}
    assert training.isdisjoint(map(query_hash, Rows(output / "data" / HELDOUT).column("query")))
    assert "P(substitute)" in (output / "model" / "README.md").read_text()
    assert run(config(model, data, tmp_path / "run", max_steps=30, batch_size=16, lora={"r": 16, "dropout": 0.0}, ray=INLINE))
    wrong = tiny_model(tmp_path / "wrong", arch="qwen3", hidden=256)
    with pytest.raises(UserError, match="does not fit the model"):
        evaluate(EsciEvalConfig(model=wrong, adapter=str(output), data=data))
    with pytest.raises(UserError, match="is there already"):
        evaluate(EsciEvalConfig(model=model, data=data, save_scores_path=str(output / "merged.jsonl")))


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_all_weights_are_saved_as_they_were_trained(model: str, data: str, tmp_path: Path, stage: int) -> None:
    settings = config(model, data, tmp_path / "run", lora={"r": 0}, zero_stage=stage, learning_rate=1e-3, ray=INLINE)
    check_folders(model, run(settings))
    assert not (tmp_path / "run" / "adapter").exists()


def test_an_interrupted_run_resumes_to_the_same_weights(model: str, data: str, tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        run(config(model, data, tmp_path / name, max_steps=6, save_every=2, keep=2, log_every=2, ray=INLINE))
    kept = sorted(path.name for path in (tmp_path / "cut" / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-6"]
    (tmp_path / "cut" / "finished.json").unlink()
    (tmp_path / "cut" / "checkpoints" / "checkpoint-6" / "manifest.json").unlink()  # as if it had not been completed
    run(config(model, data, tmp_path / "cut", max_steps=6, save_every=2, keep=2, log_every=2, ray=INLINE))
    assert [line["step"] for line in record(tmp_path / "cut") if "loss" in line] == [2, 4, 6]
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    with pytest.raises(UserError, match=r"belongs to another configuration: lora\.r \(16 there, 4 here\)"):
        run(config(model, data, tmp_path / "cut", max_steps=6, save_every=2, keep=2, log_every=2, lora={"r": 4}, ray=INLINE))


def test_a_run_that_diverges_ends_with_a_sentence_at_its_evaluation(model: str, data: str, tmp_path: Path) -> None:
    settings = config(model, data, tmp_path, learning_rate=1e38, warmup_ratio=0.0, eval_every=1, ray=INLINE)
    with pytest.raises(UserError, match=r"^step 1: what the model says of held-out rows is NaN or infinite; set a lower"):
        run(settings)
    assert not (tmp_path / "model").exists()


def test_the_scripts_command_lines_train_and_measure_at_the_door(model: str, data: str, tmp_path: Path) -> None:
    flags = {
        "--base_model": model, "--train_file": data, "--output_dir": tmp_path / "run", "--max_length": 600,
        "--per_device_train_batch_size": 4, "--gradient_accumulation_steps": 2, "--num_train_epochs": 0.2,
        "--learning_rate": 2e-4, "--warmup_ratio": 0.03, "--logging_steps": 1, "--save_steps": 2, "--save_total_limit": 2,
        "--lora_r": 16, "--lora_alpha": 32, "--lora_dropout": 0.05, "--eval_ratio": 0.1, "--report_to": "tensorboard",
        "ray.inline": "true",
    }  # fmt: skip
    done = launch_here("esci", flags)
    assert "on held-out tasks" in done.stdout
    assert (tmp_path / "run" / "tensorboard").is_dir()
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    flags = {"--base_model": model, "--lora_model": tmp_path / "run", "--eval_file": data, "--batch_size": 16}
    done = launch_here("esci eval", {**flags, "--save_scores_path": tmp_path / "scores.jsonl"})
    for said in ("160 rows of 40 queries", "label, predicted", "weighted avg", "AUC of exact against the rest", "nDCG@10"):
        assert said in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(1, 161))
    for row in rows:
        assert row["score"] == pytest.approx((3 * row["E"] + 2 * row["S"] + row["C"]) / 3, abs=1e-6)
        assert row["label"] in "ESCI"


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("rank", [0, 8])
def test_two_ranks_learn_what_one_rank_learns(ray_session, model: str, data: str, tmp_path: Path, stage: int, rank: int) -> None:
    keys = {"lora": {"r": rank, "dropout": 0.0}, "zero_stage": stage, "learning_rate": 1e-2 if rank else 1e-3}
    keys["gradient_checkpointing"] = True
    run(config(model, data, tmp_path / "two", ranks=2, micro_batch_size=2, **keys))
    run(config(model, data, tmp_path / "one", ray=INLINE, **keys))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert check_folders(model, tmp_path / "two") == pytest.approx(check_folders(model, tmp_path / "one"), abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize("rank", [0, 8])
def test_bf16_trains_and_saves(model: str, data: str, tmp_path: Path, stage: int, rank: int) -> None:
    keys = {"lora": {"r": rank, "dropout": 0.0}, "zero_stage": stage, "learning_rate": 1e-2 if rank else 1e-3, "bf16": True}
    check_folders(model, run(config(model, data, tmp_path / "run", ray=INLINE, **keys)), tolerance=5e-2)
