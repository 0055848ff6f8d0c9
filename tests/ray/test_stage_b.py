"""Stage B end to end on real components: warm start, RL on lists, reranking with the trained model, evaluation of its run."""

import json
from pathlib import Path

import pytest

from r0.storage.models import model_folder
from tests.helpers import tiny_model
from tests.launching import here, launch, launch_here, record, refused, steps

pytestmark = pytest.mark.ray

MUSIQUE = Path(__file__).parents[2].parent / "shared" / "data" / "musique100"
SMALL = {
    "algo": "grpo", "grpo.num_generations": 4, "batch_size": 4, "max_steps": 2, "builtin_rows": 120, "heldout_share": 0.2,
    "max_prompt_tokens": 900, "max_new_tokens": 120, "candidates": 4, "learning_rate": 1e-4, "eval.every": 2, "eval.tasks": 6,
    "gradient_checkpointing": "false",
}  # fmt: skip
INLINE = {"ray.inline": "true", "rollout.engine": "hf"}


def test_from_a_warm_start_to_the_table_of_the_trained_model(tmp_path, capsys):
    warm, run, data, ranked = (tmp_path / name for name in ("warm", "run", "data", "ranked"))
    launch_here(
        "sft",
        {
            "model": "r0-tiny", "output": warm, "answer": "permutation", "candidates": 4, "builtin_rows": 160, "max_steps": 3,
            "batch_size": 16, "max_prompt_tokens": 900, "zero_stage": 0, "learning_rate": 1e-5, "ray.inline": "true",
        },
    )  # fmt: skip
    launch_here("stage_b", {**SMALL, "model": warm / "model", "output": run, "ray.inline": "true"})
    lines = steps(run)
    assert [line["step"] for line in lines] == [1, 2]
    assert max(line["gap"] for line in lines) < 1e-3
    heldout = [line for line in record(run) if "heldout/greedy/ndcg@10" in line]
    assert len(heldout) == 2  # before the first step and after the last
    assert all(0 < line["heldout/greedy/ndcg@10_given"] < 1 for line in heldout)
    assert heldout[-1]["heldout/greedy/format_rate"] > 0.5  # r0-tiny can write an order

    here(capsys, "convert", {"input": "builtin", "output": data, "rows": 12})
    assert json.loads((run / "model" / "r0_prompt.json").read_text())["answer"] == "permutation"
    settings = {
        "model": run / "model", "data": data, "run": data / "given.trec", "output": ranked, "method": "listwise",
        "max_prompt_tokens": 900, "max_new_tokens": 120, "ray.inline": "true",
    }  # fmt: skip
    launch_here("rerank", settings)
    files = {"qrels": data / "qrels" / "test.tsv", "runs": ranked / "run.trec", "first_stage": data / "given.trec"}
    shown = json.loads(here(capsys, "eval", {**files, "format": "json"}))
    assert "nDCG@10" in json.dumps(shown)


@pytest.mark.parametrize("answer", ["pick", pytest.param("scores", marks=pytest.mark.slow)])
def test_other_answers_train_inline_by_ppo(tmp_path, answer):
    one = {"algo": "ppo", "model": "r0-tiny", "output": tmp_path / "run", "answer": answer, "max_steps": 1}
    launch_here("stage_b", {**SMALL, **INLINE, **one})
    (line,) = steps(tmp_path / "run")
    assert line["gap"] < 1e-3
    assert "value_loss" in line


@pytest.mark.slow
def test_a_run_from_a_stage_a_model_on_musique(tmp_path):
    if not MUSIQUE.is_dir():
        pytest.skip("musique100 is not beside the project")
    model = tiny_model(tmp_path / "model", positions=4096)
    settings = {
        **SMALL, "model": model, "output": tmp_path / "run", "data": MUSIQUE, "run": MUSIQUE / "given_order.trec",
        "candidates": 20, "passage_tokens": 64, "max_prompt_tokens": 2048, "max_new_tokens": 32, "max_steps": 1, "eval.every": 1,
    }  # fmt: skip
    launch("stage_b", settings)
    (line,) = steps(tmp_path / "run")
    assert line["prompt_tokens"] > 1000
    (first, *_) = [line for line in record(tmp_path / "run") if "heldout/greedy/ndcg@10" in line]
    # A random model writes no order, so what counts is the given order.
    assert first["heldout/greedy/ndcg@10"] == pytest.approx(first["heldout/greedy/ndcg@10_given"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"answer": "orders"}, "answer"),
        ({"reward.name": "stage_a"}, "stage_a"),
        ({"reward.rbo_p": 1.0}, "rbo_p"),
        ({"candidates": 1}, "candidates"),
        ({"label_sampling": "balanced"}, "label_sampling"),
        ({"data": "/nowhere.jsonl"}, "/nowhere.jsonl"),
    ],
)
def test_bad_input_gives_a_one_sentence_error(tmp_path, capsys, settings, words):
    folder = str(model_folder("r0-tiny"))
    said = refused(capsys, "stage_b", {**SMALL, **INLINE, "model": folder, "output": tmp_path / "run", **settings})
    assert words in said
