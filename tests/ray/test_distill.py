"""Distillation with real models: the student learns the loss's target, its folder loads everywhere, and the test set is never
trained on.
"""

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
from r0.supervised.finetune import run as finetune
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


def scores_of(run: Path, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Logits of the trained folder."""
    import torch
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(run / "model"), device="cpu").predict(pairs, activation_fn=torch.nn.Identity()).tolist()


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
    found = scores_of(run, [(row["query"], row[name]) for row in rows for name in ("positive", "negative_1")])
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
    found = iter(scores_of(run, [(row["query"], document) for row in rows for document in row["documents"]]))

    def log_softmax(values: Sequence[float]) -> list[float]:
        total = math.log(math.fsum(map(math.exp, values)))
        return [value - total for value in values]

    losses = []
    for row in rows:
        student = log_softmax([next(found) for _ in row["documents"]])
        losses.append(-math.fsum(math.exp(t) * s for t, s in zip(log_softmax(row["labels"]), student, strict=True)))
    assert last["heldout/loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Lists in the layout of stackoverflowdupquestions-reranking; the first test query is a training query too."""
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for name, numbers in (("train", range(30)), ("test", [0, *range(100, 112)]), ("other_test", range(200, 206))):
        rows = []
        for one in builtin_labelled(LabelledKind.GROUPED, 5, numbers):
            graded = list(zip(one.documents, one.labels, strict=True))
            positive, negative = ([text for text, grade in graded if (grade == 2) == side] for side in (True, False))
            rows.append({"query": one.query, "positive": positive, "negative": negative})
        found[name] = folder / f"{name}.jsonl"
        found[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cross_encoder(tmp_path_factory.mktemp("teacher"), seed=3)


def cross_encoder(folder: Path, seed: int) -> str:
    """A tiny random cross-encoder with a score head."""
    import torch
    from transformers import AutoModelForSequenceClassification

    tiny_bert(folder, seed=seed)
    torch.manual_seed(seed)
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).save_pretrained(folder)
    return str(folder)


def distill(files: dict[str, Path], student: str, teacher: str, output: Path, **changes: object) -> int:
    settings: dict[str, object] = {
        "data": files["train"], "test": files["test"], "model": student, "teacher.model": teacher, "output": output,
        "batch_size": 16, "micro_batch_size": 8, "max_steps": 3, "learning_rate": 2e-3, "max_prompt_tokens": 256,
        "ray.inline": "true", **changes,
    }  # fmt: skip
    return main(["distill", *(f"{key}={value}" for key, value in settings.items())])


def test_one_command_distills_and_the_test_changes_nothing_in_the_student(
    files: dict[str, Path], teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    student, run, other = cross_encoder(tmp_path / "student", seed=4), tmp_path / "run", tmp_path / "other"
    assert distill(files, student, teacher, run) == 0
    shown = capsys.readouterr().out
    assert "1 queries dropped: they occur in the training data" in shown
    table = json.loads((run / "eval" / "gain.json").read_text())["measures"]
    assert [row["measure"] for row in table] == ["MAP", "MRR@10", "nDCG@10"]
    assert all(row["before"] != row["after"] and row["absolute"] == row["after"] - row["before"] for row in table)
    assert all(0 < row["teacher"] <= 1 for row in table)
    # Three libraries give the scores that were measured.
    measured = [json.loads(text) for text in (run / "eval" / "after" / "scores.jsonl").read_text().splitlines()[:4]]
    pairs = [(one["query"], hit["content"]) for one in measured for hit in one["hits"]]
    expected = [hit["score"] for one in measured for hit in one["hits"]]
    assert logits(run / "train", pairs) == pytest.approx(expected, abs=1e-4)

    files = {**files, "test": files["other_test"]}
    assert distill(files, student, teacher, other) == 0
    weights = [(folder / "train" / "model" / "model.safetensors").read_bytes() for folder in (run, other)]
    assert weights[0] == weights[1]
    assert json.loads((other / "eval" / "gain.json").read_text())["measures"] != table


def test_an_interrupted_distillation_goes_on_after_its_last_step(
    files: dict[str, Path],
    bert: str,
    teacher: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The student has no score head before it is trained, so there is no gain to show; the teacher stands beside it."""
    from r0.commands import distill_train

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(distill_train, "run", lambda *_: 143)
        assert distill(files, bert, teacher, run) == 143
    made = {name: (run / name).stat().st_mtime_ns for name in ("score/scores.jsonl", "triplets.jsonl")}
    assert not (run / "finished.json").exists()
    capsys.readouterr()
    assert distill(files, bert, teacher, run, max_per_query=2) == 2
    assert "max_per_query (empty there, 2 here)" in capsys.readouterr().err
    assert distill(files, bert, teacher, run) == 0
    assert made == {name: (run / name).stat().st_mtime_ns for name in made}
    assert capsys.readouterr().out.split("— eval")[1].count(" teacher  of teacher\n") == 1
    assert json.loads((run / "eval" / "gain.json").read_text())["measures"][0]["before"] is None


def test_data_that_is_no_longer_what_was_scored_is_refused(
    files: dict[str, Path],
    bert: str,
    teacher: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from r0.commands import distill_triplets

    files = {**files, "train": tmp_path / "train.jsonl"}
    lines = (files["test"].parent / "train.jsonl").read_text().splitlines(keepends=True)
    files["train"].write_text("".join(lines))
    with monkeypatch.context() as patch:
        patch.setattr(distill_triplets, "run", lambda *_: 130)
        assert distill(files, bert, teacher, tmp_path / "run") == 130
    for changed in (lines[:-1], [*lines, lines[0].replace("?", "??", 1).replace("About", "Of", 1)]):
        files["train"].write_text("".join(changed))
        assert distill(files, bert, teacher, tmp_path / "run") == 2
        said = capsys.readouterr().err
        assert f"{files['train']} is not what this run" in said
        assert "fresh=true" in said
    assert not (tmp_path / "run" / "triplets.jsonl").exists()


def test_bad_input_is_found_before_anything_is_written(
    files: dict[str, Path], bert: str, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(files["train"].read_text())
    for changes, reason in (
        ({"test": files["train"]}, "test: is the same as data"),
        ({"test": copy}, "every query of"),
        ({"test": tmp_path / "nowhere.jsonl"}, "no such file"),
        ({"validation": copy}, "set validation_share"),
        ({"teacher.model": tmp_path}, "contains no config.json"),
        ({"max_prompt_tokens": 4096}, "use max_prompt_tokens=512"),
        ({"teacher.ray.inline": "true"}, "without teacher."),
    ):
        assert distill(files, bert, teacher, tmp_path / "run", **changes) == 2, reason
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
