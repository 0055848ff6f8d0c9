"""Distillation on real models: what a student learns is the formula's, its folder loads everywhere, no test is learned from."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from r0.config import DistillTrainConfig, RaySection
from r0.data.labelled import LabelledKind, builtin_labelled
from r0.launch import main
from r0.supervised import finetune
from tests.launching import environment, record
from tests.tiny_encoder import tiny_bert

pytestmark = pytest.mark.ray

INLINE = RaySection(inline=True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's scores of 40 built-in lists; it errs at times, and gives some documents none."""
    rng, path = random.Random(1), tmp_path_factory.mktemp("scores") / "scores.jsonl"
    with path.open("w") as file:
        for one in builtin_labelled(LabelledKind.POSITIVES, 7, range(40)):
            hits = [
                {"content": text, "label": label, "score": None if rng.random() < 0.05 else 4 * label - 2 + rng.gauss(0, 2)}
                for text, label in zip(one.documents, one.labels, strict=True)
            ]
            file.write(json.dumps({"query": one.query, "hits": hits}) + "\n")
    return path


def arrow(run: Path, name: str) -> list[dict]:
    from datasets import Dataset

    return Dataset.from_file(str(run / "data" / f"{name}.arrow")).to_list()


def logits(run: Path, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Of the trained folder, by transformers, sentence-transformers and r0, which must agree; in a process of its own."""
    (run / "pairs.json").write_text(json.dumps(pairs))
    script = Path(__file__).parents[1] / "score_folder.py"
    arguments = [sys.executable, str(script), str(run / "model"), str(run / "pairs.json")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["transformers"] == pytest.approx(found["sentence_transformers"], abs=1e-4)
    assert found["r0"] == pytest.approx(found["predicted"], abs=1e-4)
    return found["sentence_transformers"]


def train(model: str, data: Path, output: Path, **changes: object) -> list[dict]:
    """Train a student; returns its validations."""
    values: dict = {
        "model": model, "data": str(data), "output": str(output), "batch_size": 16, "micro_batch_size": 8, "max_steps": 12,
        "learning_rate": 2e-3, "max_prompt_tokens": 300, "validation_share": 0.2, "ray": INLINE,
    }  # fmt: skip
    finetune.run(DistillTrainConfig(**{**values, **changes}), "distill train")
    return [line for line in record(output) if "heldout/loss" in line]


def test_a_student_learns_the_margins_of_its_teacher(bert: str, scores: Path, tmp_path: Path) -> None:
    """From triplets by MarginMSE: the saved folder has the loss that was validated, by the formula."""
    triplets, run = tmp_path / "triplets.jsonl", tmp_path / "run"
    assert main(["distill", "triplets", f"data={scores}", f"output={triplets}"]) == 0
    first, *_, last = train(bert, triplets, run)
    assert last["heldout/loss"] < first["heldout/loss"]
    rows = arrow(run, "validation_loss")
    found = logits(run, [(row["query"], row[name]) for row in rows for name in ("positive", "negative_1")])
    margins = zip(found[::2], found[1::2], (row["label"][0] - row["label"][1] for row in rows), strict=True)
    errors = [(positive - negative - wanted) ** 2 for positive, negative, wanted in margins]
    assert last["heldout/loss"] == pytest.approx(math.fsum(errors) / len(errors), rel=1e-4)
    assert "distillation" in (run / "model" / "README.md").read_text()


def test_a_student_learns_the_shares_of_its_teacher(bert: str, scores: Path, tmp_path: Path) -> None:
    """From scored groups by listwise KL, that is cross-entropy to the softmax of the teacher's scores."""
    run = tmp_path / "run"
    first, *_, last = train(bert, scores, run, loss_type="listwise_kl", teacher_temperature=2.0, train_group_size=4)
    assert last["heldout/loss"] < first["heldout/loss"]
    rows = arrow(run, "validation_loss")
    found = iter(logits(run, [(row["query"], document) for row in rows for document in row["documents"]]))

    def log_softmax(values: Sequence[float]) -> list[float]:
        total = math.log(math.fsum(map(math.exp, values)))
        return [value - total for value in values]

    losses = []
    for row in rows:
        student = log_softmax([next(found) for _ in row["documents"]])
        losses.append(-math.fsum(math.exp(t) * s for t, s in zip(log_softmax(row["labels"]), student, strict=True)))
    assert last["heldout/loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-4)
