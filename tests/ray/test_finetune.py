"""Fine-tuning on real Ray Train: saved models load everywhere with their validation scores; the number of ranks changes nothing.
"""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from r0.config import FinetuneConfig, LoraSection, RaySection
from r0.errors import UserError
from r0.ranking import groups_of, ndcg
from r0.supervised.finetune import run as finetune
from tests.helpers import tiny_model
from tests.launching import launch, launch_here, record, scores_elsewhere
from tests.tiny_encoder import tiny_bert

pytestmark = pytest.mark.ray

INLINE = RaySection(inline=True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("qwen"), scale=0.02)


def config(model: str, output: Path, **changes: object) -> FinetuneConfig:
    values: dict = {
        "model": model, "output": str(output), "builtin_rows": 80, "validation": "builtin", "train_group_size": 6,
        "batch_size": 8, "micro_batch_size": 2, "max_steps": 4, "learning_rate": 2e-3, "max_prompt_tokens": 400,
    }  # fmt: skip
    return FinetuneConfig(**{**values, **changes})


def split(stage: int | str) -> dict:
    """How ranks share the model: a ZeRO stage, or ``fsdp``."""
    return {"fsdp": True} if stage == "fsdp" else {"zero_stage": stage}


def validation(run: Path) -> list[dict]:
    from datasets import Dataset

    return Dataset.from_file(str(run / "data" / "validation.arrow")).to_list()


def scores_of(run: Path) -> list[list[float]]:
    """Logits of the final model for the validation documents, by query; in a new process, by three libraries that agree."""
    queries = validation(run)
    pairs = [(one["query"], document) for one in queries for document in one["documents"]]
    found = scores_elsewhere(run / "model", pairs, run / "pairs.json")
    assert found["transformers"] == pytest.approx(found["sentence_transformers"], abs=1e-4)
    assert found["r0"] == pytest.approx(found["predicted"], abs=1e-4)
    logits = iter(found["sentence_transformers"])
    return [[next(logits) for _ in one["documents"]] for one in queries]


def scores_here(run: Path) -> list[float]:
    """The same logits by transformers alone, in this process."""
    model = AutoModelForSequenceClassification.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    pairs = [(one["query"], document) for one in validation(run) for document in one["documents"]]
    with torch.no_grad():
        return [float(model(**tokenizer(*pair, return_tensors="pt")).logits[0, 0]) for pair in pairs]


def check_model(run: Path, tolerance: float = 1e-4) -> list[float]:
    """The folder scores as the ranks did in memory: the last validation loss, RankNet by its formula, comes out again."""
    losses, gains = [], []
    scores = scores_of(run)
    for one, logits in zip(validation(run), scores, strict=True):
        known = list(zip(one["labels"], logits, strict=True))
        losses.append(sum((b - a) * math.log1p(math.exp(s - t)) for a, s in known for b, t in known if a < b))
        gains.append(ndcg(one["labels"], groups_of(logits), 10))
    first, *_, last = [line for line in record(run) if "heldout/loss" in line]
    assert last["heldout/loss"] == pytest.approx(sum(losses) / len(losses), rel=tolerance)
    assert last["heldout/ndcg@10"] == pytest.approx(sum(gains) / len(gains), abs=1e-6 if tolerance < 1e-3 else 0.1)
    assert abs(last["heldout/loss"] - first["heldout/loss"]) > 1e-3  # so the weights are the trained ones
    assert (run / "model" / "README.md").is_file()
    return [score for row in scores for score in row]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in record(run) if "loss" in line]


@pytest.fixture(scope="module")
def alone(bert: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], list[float]]:
    """What one rank makes of ``config``: the losses of its steps and the scores of its model."""
    run = tmp_path_factory.mktemp("alone") / "run"
    finetune.run(config(bert, run, ray=INLINE))
    return losses(run), check_model(run)


def test_two_ranks_with_zero_3_learn_what_one_rank_learns(ray_session, bert: str, alone, tmp_path: Path) -> None:
    two = config(bert, tmp_path / "two", ranks=2, zero_stage=3)
    assert finetune.run(two) == tmp_path / "two"
    assert losses(tmp_path / "two") == pytest.approx(alone[0], rel=1e-4)
    assert scores_here(tmp_path / "two") == pytest.approx(alone[1], abs=2e-3)
    assert finetune.run(two) == tmp_path / "two"  # finished: says so and returns


@pytest.mark.slow
def test_two_ranks_with_fsdp_learn_what_one_rank_learns_and_resume(ray_session, bert: str, alone, tmp_path: Path) -> None:
    run = tmp_path / "run"
    two = config(bert, run, ranks=2, fsdp=True, save_every=3)
    finetune.run(two)
    assert losses(run) == pytest.approx(alone[0], rel=1e-4)
    first = (run / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "model")
    (run / "finished.json").unlink()
    (run / "checkpoints" / "checkpoint-4" / "manifest.json").unlink()  # as if it had not been completed
    finetune.run(two)
    assert losses(run) == pytest.approx(alone[0], rel=1e-4)
    assert (run / "model" / "model.safetensors").read_bytes() == first
    assert check_model(run) == pytest.approx(alone[1], abs=2e-3)


def test_yes_and_no_logits_with_lora_come_out_merged(qwen: str, tmp_path: Path) -> None:
    lora = LoraSection(r=8, alpha=16.0)
    finetune.run(config(qwen, tmp_path / "run", lora=lora, learning_rate=2e-2, max_prompt_tokens=700, ray=INLINE))
    check_model(tmp_path / "run")
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").stat().st_size > 1000
    assert (tmp_path / "run" / "model" / "generation_config.json").is_file()


@pytest.mark.slow
def test_a_score_head_of_a_decoder_with_lora_is_kept(qwen: str, tmp_path: Path) -> None:
    settings = config(
        qwen, tmp_path / "run", model_type="llm_decoder", lora=LoraSection(r=8, alpha=16.0), learning_rate=1e-2, zero_stage=3,
        special_token="\nrelevance", ray=INLINE,
    )  # fmt: skip
    finetune.run(settings)
    check_model(tmp_path / "run")


def test_an_interrupted_run_resumes_to_the_same_weights(bert: str, tmp_path: Path) -> None:
    def run(name: str) -> FinetuneConfig:
        return config(bert, tmp_path / name, builtin_rows=16, max_steps=0, epochs=3.0, save_every=3, ray=INLINE)

    finetune.run(run("whole"))
    finetune.run(run("cut"))
    (tmp_path / "cut" / "finished.json").unlink()
    (tmp_path / "cut" / "checkpoints" / "checkpoint-6" / "manifest.json").unlink()  # as if it had not been completed
    finetune.run(run("cut"))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "cut")) == 6
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_an_interrupted_run_with_lora_resumes_to_the_same_weights(qwen: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = config(qwen, run, lora=LoraSection(r=8, alpha=16.0), learning_rate=2e-2, save_every=2, ray=INLINE)
    finetune.run(settings)
    first, weights = losses(run), (run / "model" / "model.safetensors").read_bytes()
    (run / "finished.json").unlink()
    (run / "checkpoints" / "checkpoint-4" / "manifest.json").unlink()
    finetune.run(settings)
    assert losses(run) == first
    assert (run / "model" / "model.safetensors").read_bytes() == weights


def test_what_is_saved_can_be_trained_further(bert: str, tmp_path: Path) -> None:
    finetune.run(config(bert, tmp_path / "first", ray=INLINE))
    second = config(str(tmp_path / "first" / "model"), tmp_path / "second", ray=INLINE)
    finetune.run(second)
    last, first = (
        [line["heldout/loss"] for line in record(tmp_path / name) if "heldout/loss" in line] for name in ("first", "second")
    )
    assert first[0] == pytest.approx(last[-1], rel=1e-5)


@pytest.mark.parametrize("stage", [0, 1])
def test_the_learning_rate_rises_stays_and_falls_as_a_cosine(bert: str, tmp_path: Path, stage: int) -> None:
    settings = config(
        bert, tmp_path / "run", max_steps=10, warmup_ratio=0.2, stable_ratio=0.3, learning_rate=1e-3, zero_stage=stage, ray=INLINE
    )
    finetune.run(settings)
    rates = [line["learning_rate"] for line in record(tmp_path / "run") if "loss" in line]
    expected = [0.0, 0.5, *[1.0] * 4, *((1 + math.cos(math.pi * step / 5)) / 2 for step in range(1, 5))]
    assert rates == pytest.approx([1e-3 * share for share in expected], abs=1e-9)


def test_checkpoints_are_kept_by_number(bert: str, tmp_path: Path) -> None:
    finetune.run(config(bert, tmp_path / "run", max_steps=5, save_every=1, keep=3, ray=INLINE))
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-3", "checkpoint-4", "checkpoint-5"]


@pytest.mark.parametrize("where", [{"ray.inline": "true"}, pytest.param({"ranks": 2}, marks=pytest.mark.slow)])
def test_rag_retrievals_file_trains_at_the_door(bert: str, tmp_path: Path, where: dict) -> None:
    for name, first in (("train", 0), ("val", 12)):
        rows = [
            {"query": f"question {number}", "content": text, "label": label}
            for number in range(first, first + 12)
            for label, text in enumerate((f"nothing of {number + 40}", f"a bit about {number}", f"all about question {number}"))
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "training.yaml").write_text(
        f"model_name_or_path: {bert}\nmodel_type: bert_encoder\nnum_labels: 1\n"
        f"train_dataset: {tmp_path}/train.jsonl\ntrain_dataset_type: pointwise\nval_dataset: {tmp_path}/val.jsonl\n"
        "val_dataset_type: pointwise\nmax_label: 2\nmin_label: 0\nmax_len: 128\nshuffle_rate: 0.5\n"
        f"output_dir: {tmp_path}/run\nloss_type: pointwise_bce\nepoch: 2\nlr: 5e-4\nbatch_size: 4\nseed: 666\n"
        "warmup_proportion: 0.1\nstable_proportion: 0.0\ngradient_accumulation_steps: 2\nmixed_precision: bf16\n"
        "save_on_epoch_end: 1\nnum_max_checkpoints: 5\nlog_interval: 2\nlog_with: tensorboard\n"
        'query_format: "{}"\ndocument_format: "{}"\n'
    )
    run = launch_here if "ray.inline" in where else launch
    done = run(f"finetune {tmp_path / 'training.yaml'}", where)
    assert "36 training examples for pointwise_bce" in done.stdout
    steps = 36 // (4 * 2 * where.get("ranks", 1)) * 2  # rows / (batch, accumulation, ranks), two epochs
    assert [line["step"] for line in record(tmp_path / "run") if "loss" in line] == list(range(2, steps + 1, 2))
    assert len([line for line in record(tmp_path / "run") if "heldout/loss" in line]) == 3
    assert (tmp_path / "run" / "tensorboard").is_dir()
    scores = scores_of(tmp_path / "run")
    assert len(scores) == 12


def test_what_a_rank_finds_wrong_gives_a_one_sentence_error(bert: str, tmp_path: Path) -> None:
    lora = LoraSection(r=4, target_modules=("no_such_layer",))
    with pytest.raises(UserError, match="no_such_layer"):
        finetune.run(config(bert, tmp_path / "run", lora=lora, ray=INLINE))
    assert not (tmp_path / "run" / "model").exists()


KINDS = ("bert_encoder", "llm_decoder", "yes_no")
ADAPTED = ((0, "fp32"), (0, "bf16"), (8, "fp32"), (8, "bf16"))
# Every stage with and without LoRA in both precisions; each kind of model with every stage, and with each of those four.
STAGES = [
    (KINDS[(number + place) % 3], stage, *adapted)
    for number, stage in enumerate((0, 1, 2, 3, "fsdp"))
    for place, adapted in enumerate(ADAPTED)
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stage", "rank", "dtype"), STAGES)
def test_every_stage_saves_what_it_trained(
    ray_session, bert: str, qwen: str, tmp_path: Path, kind: str, stage: int | str, rank: int, dtype: str
) -> None:
    settings = config(
        bert if kind == "bert_encoder" else qwen, tmp_path / "run", model_type=kind, ranks=2, dtype=dtype, **split(stage),
        lora=LoraSection(r=rank, alpha=16.0), learning_rate=2e-2 if rank else 2e-3, max_prompt_tokens=500,
        gradient_checkpointing=True,
    )  # fmt: skip
    finetune.run(settings)
    check_model(tmp_path / "run", 1e-4 if dtype == "fp32" else 2e-2)


# A loss knows nothing of the ranks, but in_batch_negatives, whose gradients are cached on plain ranks only.
LOSSES = [
    ("pointwise_bce", 0), ("pointwise_mse", 2), ("pairwise_ranknet", 0), ("listwise_ce", 3), ("listwise_lambda", 0),
    ("listwise_mle", 2), ("margin_mse", 3), ("in_batch_negatives", 0), ("in_batch_negatives", 2), ("in_batch_negatives", 3),
    ("in_batch_negatives", "fsdp"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "stage"), LOSSES)
def test_every_loss_trains_on_two_ranks(ray_session, bert: str, tmp_path: Path, loss: str, stage: int | str) -> None:
    settings = config(
        bert, tmp_path / "run", loss_type=loss, ranks=2, builtin_rows=120, max_steps=8, train_group_size=4, **split(stage),
    )  # fmt: skip
    finetune.run(settings)
    figures = [line["heldout/loss"] for line in record(tmp_path / "run") if "heldout/loss" in line]
    assert any(b < a for a, b in pairwise(figures))
    scores_of(tmp_path / "run")
