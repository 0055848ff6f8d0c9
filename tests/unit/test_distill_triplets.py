"""From a teacher's scores to training data: triplets and their statistics, both losses, the split by query."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import nn

from r0.config import DistillTrainConfig, DistillTripletsConfig, FinetuneConfig
from r0.config.load import load
from r0.data.hashes import query_hash
from r0.distill.triplets import write_triplets
from r0.errors import UserError
from r0.launch import main
from r0.supervised.finetune.data import Preparation, check_loss
from r0.supervised.finetune.losses import make_loss


def line(query: str, *hits: tuple[str, float, float | None]) -> dict:
    return {"query": query, "hits": [{"content": text, "label": label, "score": score} for text, label, score in hits]}


SCORES = (
    line("tides", ("moon", 1, 3.5), ("sun", 1, -1.0), ("cheese", 0, -2.25), ("pull", 0, 0.5)),
    line("rain", ("clouds", 1, 2.0), ("drought", 0, None), ("fog", 0, 2.0)),
    line("no negative", ("a", 1, 0.0), ("b", 1, 1.0)),
)


def write(path: Path, *lines: dict) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return str(path)


def triplets(tmp_path: Path, *lines: dict, **changes: object) -> tuple[list[dict], str]:
    output = tmp_path / "triplets.jsonl"
    config = DistillTripletsConfig(data=write(tmp_path / "scores.jsonl", *lines), output=str(output), **changes)
    summary = write_triplets(config).summary()
    return [json.loads(text) for text in output.read_text().splitlines()], summary


def test_every_positive_and_negative_of_a_query_is_a_triplet_with_the_difference_of_their_scores(tmp_path: Path) -> None:
    found, summary = triplets(tmp_path, *SCORES)
    assert [tuple(row.values()) for row in found] == [
        ("tides", "moon", "cheese", 5.75), ("tides", "moon", "pull", 3.0), ("tides", "sun", "cheese", 1.25),
        ("tides", "sun", "pull", -1.5), ("rain", "clouds", "fog", 0.0),
    ]  # fmt: skip
    assert list(found[0]) == ["query", "positive", "negative", "score_diff"]
    assert "5 triplets of 2 queries" in summary
    assert "mean 1.7000, min -1.5000, max 5.7500" in summary
    assert "scores the negative higher: 1 (20.0%); equal scores: 1" in summary
    assert "1 documents dropped: no teacher score" in summary
    assert "1 queries dropped: no pair" in summary


def test_of_graded_labels_the_higher_one_is_the_positive(tmp_path: Path) -> None:
    found, _ = triplets(tmp_path, line("q", ("a", 0, 1.0), ("b", 2, 4.0), ("c", 1, 2.0)))
    assert {(row["positive"], row["negative"]) for row in found} == {("b", "a"), ("b", "c"), ("c", "a")}


def test_a_cap_draws_by_the_seed(tmp_path: Path) -> None:
    many = line("q", *((f"p{i}", 1, float(i)) for i in range(5)), *((f"n{i}", 0, float(-i)) for i in range(5)))
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        found, summary = triplets(tmp_path / name, many, max_per_query=7, seed=seed)
        assert len(found) == 7
        assert "18 triplets dropped: beyond max_per_query" in summary
        drawn.append(found)
    assert drawn[0] == drawn[1] != drawn[2]


def test_unusable_scores_give_a_one_sentence_error_and_no_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "out.jsonl"
    for lines, reason in (
        ((line("q", ("a", 1, 1.0), ("b", 1, 0.0)),), "different labels"),
        ((line("q", ("a", 1, 1.0), ("b", 0, None)),), "different labels"),
        (({"query": "q", "hits": [{"content": "a", "label": 1}]},), 'scores.jsonl:1: hits[0]: the field "score" is missing'),
    ):
        source = write(tmp_path / "scores.jsonl", *lines)
        assert main(["distill", "triplets", f"data={source}", f"output={output}"]) == 2
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.jsonl"]
    output.write_text("mine")
    assert main(["distill", "triplets", f"data={write(tmp_path / 's.jsonl', *SCORES)}", f"output={output}"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert output.read_text() == "mine"


def prepared(tmp_path: Path, *lines: dict, **changes: object) -> tuple[Preparation, FinetuneConfig]:
    values = {"data": write(tmp_path / "data.jsonl", *lines), "batch_size": 1, "validation_share": 0.0, **changes}
    config, kind = check_loss(DistillTrainConfig(**values))
    return Preparation(config, kind), config


def arrow(folder: Path, name: str) -> list[dict]:
    from datasets import Dataset

    return Dataset.from_file(str(folder / f"{name}.arrow")).to_list()


class _Known(nn.Module):
    """Scores that are given, in float64: the text of a document is its logit."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**features, "scores": features["known"][:, None] * self.scale}

    def preprocess(self, pairs: list[tuple[str, str]], **_: object) -> dict[str, torch.Tensor]:
        return {"known": torch.tensor([float(document) for _, document in pairs], dtype=torch.float64)}


@pytest.fixture(scope="module")
def known() -> CrossEncoder:
    return CrossEncoder(modules=[_Known()], device="cpu", activation_fn=nn.Identity(), local_files_only=True)


def test_margin_mse_of_triplets_is_the_mean_squared_error_of_margins(tmp_path: Path, known: CrossEncoder) -> None:
    """mean((s_pos − s_neg − score_diff)²), with differences of every sign: what the teacher says is not put right."""
    rows = [
        {"query": f"q{place}", "positive": str(high), "negative": str(low), "score_diff": difference}
        for place, (high, low, difference) in enumerate(
            [(1.3, -0.4, 2.7), (0.2, 0.9, -1.1), (-3.1, 2.2, 0.0), (8.25, -7.5, 16.375)]
        )
    ]
    preparation, config = prepared(tmp_path, *rows)
    assert config.loss_type == "margin_mse"
    assert preparation.check().examples == 4  # the triplet whose documents the teacher scores alike is there too
    preparation.write(tmp_path / "data")
    found = arrow(tmp_path / "data", "train")
    columns = [[row[name] for row in found] for name in ("query", "positive", "negative_1")]
    loss = make_loss(known, config)(columns, [torch.tensor(row["label"], dtype=torch.float64) for row in found]).item()
    errors = [(float(row["positive"]) - float(row["negative"]) - row["score_diff"]) ** 2 for row in rows]
    assert loss == pytest.approx(math.fsum(errors) / len(errors), abs=1e-6)


def test_listwise_kl_is_cross_entropy_to_the_softmax_of_the_teachers_scores_less_its_entropy(
    tmp_path: Path, known: CrossEncoder
) -> None:
    teacher, student, heat = [2.5, -1.0, 0.5], [0.7, -1.3, 2.1], 2.0
    rows = [line("q", *((str(s), label, t) for s, label, t in zip(student, (1, 0, 0), teacher, strict=True)), ("9", 0, None))]
    preparation, config = prepared(
        tmp_path, *rows, loss_type="listwise_kl", teacher_temperature=heat, train_group_size=3
    )  # fmt: skip
    assert "1 documents dropped: no teacher score" in preparation.check().notes[0]
    preparation.write(tmp_path / "data")
    (row,) = arrow(tmp_path / "data", "train")
    assert dict(zip(row["documents"], row["labels"], strict=True)) == {
        str(s): t / heat for s, t in zip(student, teacher, strict=True)
    }
    loss = make_loss(known, config)([["q"], [row["documents"]]], [torch.tensor(row["labels"])]).item()

    def softmax(values: list[float]) -> list[float]:
        total = math.fsum(map(math.exp, values))
        return [math.exp(value) / total for value in values]

    p, q = softmax([value / heat for value in teacher]), softmax(student)
    divergence = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    entropy = -math.fsum(a * math.log(a) for a in p)
    assert loss - entropy == pytest.approx(divergence, abs=1e-6)


def test_the_first_line_says_whether_scores_or_triplets_are_learned_from(tmp_path: Path) -> None:
    triplet = {"query": "q", "positive": "a", "negative": "b", "score_diff": 1.0}
    for rows, kind, loss in ((SCORES, "scored", "listwise_ce"), ([triplet], "triplets", "margin_mse")):
        config, found = check_loss(DistillTrainConfig(data=write(tmp_path / "data.jsonl", *rows)))
        assert (found, config.loss_type) == (kind, loss)
    # finetune takes hits for labelled ones, as before: a score in them may be anyone's.
    assert check_loss(FinetuneConfig(data=write(tmp_path / "data.jsonl", *SCORES)))[1] == "grouped"


def test_validation_queries_are_a_share_of_the_training_queries_and_on_one_side_only(tmp_path: Path) -> None:
    rows = [
        {"query": f"query {number % 20}", "positive": f"p{number % 20}", "negative": f"n{number}", "score_diff": float(number)}
        for number in range(60)
    ]
    preparation, _ = prepared(tmp_path, *rows, validation_share=0.3)
    counts = preparation.check()
    assert preparation.write(tmp_path / "data").examples == counts.examples
    train, validation, loss = (arrow(tmp_path / "data", name) for name in ("train", "validation", "validation_loss"))
    held = {row["query"] for row in validation}
    assert held == {f"query {n}" for n in range(20) if query_hash(f"query {n}") < 0.3 * 2**64}
    assert 0 < len(held) < 20
    assert {row["query"] for row in train}.isdisjoint(held)
    assert {row["query"] for row in loss} == held
    assert len(train) + len(loss) == 60
    # What orders a validation query is what the data says, each document once.
    assert all(sorted(row["labels"]) == [0.0, 0.0, 0.0, 1.0] and len(set(row["documents"])) == 4 for row in validation)


def test_scored_groups_validate_by_the_labels_of_the_data(tmp_path: Path) -> None:
    rows = [line(f"query {n}", ("a", 1, -3.0), ("b", 0, 2.0), ("c", 0, None)) for n in range(10)]
    preparation, _ = prepared(tmp_path, *rows, validation_share=0.3, train_group_size=2)
    preparation.write(tmp_path / "data")
    assert arrow(tmp_path / "data", "validation")[0]["labels"] == [1.0, 0.0]
    assert sorted(arrow(tmp_path / "data", "validation_loss")[0]["labels"]) == [-3.0, 2.0]


def test_a_file_for_validation_takes_the_place_of_the_share() -> None:
    assert load(DistillTrainConfig, None, ["data=d.jsonl"]).validation_share == 0.1
    assert load(DistillTrainConfig, None, ["data=d.jsonl", "validation=v.jsonl"]).validation_share == 0.0
    with pytest.raises(UserError, match="remove one of the"):
        load(DistillTrainConfig, None, ["data=d.jsonl", "validation=v.jsonl", "validation_share=0.2"])


def test_the_built_in_task_has_no_teacher() -> None:
    with pytest.raises(UserError, match="no scores of a teacher"):
        check_loss(FinetuneConfig(data="builtin", data_type="triplets"))


def test_scores_of_other_data_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    lists = [{"query": one["query"], "positive": ["a"], "negative": ["b"]} for one in SCORES[:2]]
    scores = [line(one["query"], ("a", 1, 1.0), ("b", 0, 0.0)) for one in SCORES[:2]]
    write(source, *lists)
    assert triplets(tmp_path, *scores, source=str(source))[0]
    (tmp_path / "triplets.jsonl").unlink()
    for others, reason in (
        ((scores[0],), "1 of the 2 queries in .* have no scores"),
        (
            (*scores, line("more", ("a", 1, 1.0), ("b", 0, 0.0))),
            "scores.jsonl:3: the query 'more' with these documents is not in",
        ),
        ((scores[0], line("rain", ("a", 1, 1.0), ("c", 0, 0.0))), "scores.jsonl:2: the query 'rain'"),
    ):
        with pytest.raises(UserError, match=reason):
            triplets(tmp_path, *others, source=str(source))
        assert not (tmp_path / "triplets.jsonl").exists()
