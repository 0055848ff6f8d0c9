"""distill's keys: each step gets its own, and contradictions are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from r0.commands.distill import eval_config, score_config, train_config
from r0.config import DistillConfig
from r0.config.load import load
from r0.errors import UserError
from r0.launch import main, parse

GIVEN = ("data=d.jsonl", "teacher.model=big", "model=small", "seed=7", "teacher.thinking=true", "max_prompt_tokens=300")


def config(*more: str) -> DistillConfig:
    return load(DistillConfig, None, [*GIVEN, *more])


def test_each_step_has_its_keys() -> None:
    given = config("test=t.jsonl", "learning_rate=1e-4", "teacher.max_prompt_tokens=4000", "ray.inline=true", "format=markdown")
    score = score_config(given, "d.jsonl", Path("run/score"))
    assert (score.model, score.data, score.thinking, score.max_prompt_tokens, score.ray.inline) == (
        "big",
        "d.jsonl",
        True,
        4000,
        True,
    )
    train = train_config(given, Path("run"))
    assert (train.model, train.data, train.output) == ("small", "run/triplets.jsonl", "run/train")
    assert (train.seed, train.learning_rate, train.max_prompt_tokens, train.validation_share) == (7, 1e-4, 300, 0.1)
    measured = eval_config(given, Path("run"), "small")
    assert (measured.model, measured.before, measured.data, measured.format) == (
        "run/train/model",
        "small",
        "t.jsonl",
        "markdown",
    )
    assert (measured.teacher_scores, measured.seen) == ("run/score_test/scores.jsonl", ("run/score/scores.jsonl",))
    assert (measured.max_prompt_tokens, measured.thinking) == (300, False)


def test_listwise_kl_learns_from_the_scores_and_built_in_tests_are_other_lists() -> None:
    given = config("loss_type=listwise_kl", "data=builtin", "test=builtin", "builtin_rows=300")
    assert train_config(given, Path("run")).data == "run/score/scores.jsonl"
    train, test = (score_config(given, "builtin", Path("s"), test) for test in (False, True))
    assert (train.builtin_rows, test.builtin_rows) == (300, 30)
    assert test.seed != train.seed == given.teacher.seed


def test_a_preset_of_the_teacher_is_the_teachers() -> None:
    given = load(DistillConfig, None, ["data=d.jsonl", "model=small", "teacher.model_preset=qwen3-reranker-0.6b"])
    score = score_config(given, given.data, Path("run"))
    assert score.model == "Qwen/Qwen3-Reranker-0.6B"
    assert "<Query>: {}" in str(score.query_format)
    assert given.query_format is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["test=d.jsonl"], "test: is the same as data"),
        (["validation=v.jsonl"], "validation: a share of the training queries is used"),
        (["data_type=grouped"], "data_type: is determined by loss_type"),
        (["loss_type=pairwise_ranknet"], "loss_type"),
        (["teacher.ray.inline=true"], "write its keys without teacher."),
        (["teacher.modle=x"], "did you mean teacher.model?"),
    ],
)
def test_contradictions_give_a_one_sentence_error(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config(*overrides)
    assert message in str(caught.value)


def test_a_teacher_must_be_given(capsys: pytest.CaptureFixture) -> None:
    assert main(["distill", "data=d.jsonl"]) == 2
    assert "teacher is missing" in capsys.readouterr().err


def test_after_and_test_are_other_names_in_distill_eval() -> None:
    found, _ = parse("distill eval", ["after=a", "before=b", "test=t.jsonl", "seen=x.jsonl,y.jsonl"])
    assert (found.model, found.before, found.data, found.seen) == ("a", "b", "t.jsonl", ("x.jsonl", "y.jsonl"))


def test_a_dry_run_writes_nothing_and_names_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [
        "data=builtin",
        "test=builtin",
        "model=r0-tiny",
        "teacher.model=r0-tiny",
        f"output={tmp_path / 'run'}",
        "--dry-run",
    ]
    assert main(["distill", *arguments]) == 0
    assert "steps: score, triplets, train, eval" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
