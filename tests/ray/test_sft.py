"""The warm start on real Ray Train and DeepSpeed: the saved model loads and has learned; the number of ranks changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from r0.config import LoraSection, RaySection, SftConfig
from r0.errors import UserError
from r0.records import ListwiseTask
from r0.storage.manifest import write_manifest
from r0.supervised.sft import run as sft
from r0.supervised.sft.examples import Collate, OpenRows
from r0.supervised.training.job import Job
from r0.text.messages import SYSTEM_PROMPTS
from tests.helpers import rewrite_model, tiny_model
from tests.launching import LOOPBACK, command, environment, launch_here, listening

pytestmark = pytest.mark.ray

INLINE = RaySection(inline=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"), scale=0.02)


def config(model: str, output: Path, **changes: object) -> SftConfig:
    values: dict = {
        "model": model, "output": str(output), "system_prompt": "Judge.", "builtin_rows": 40, "heldout_share": 0.2,
        "batch_size": 8, "micro_batch_size": 2, "max_steps": 4, "learning_rate": 3e-3, "max_new_tokens": 400,
        "max_prompt_tokens": 500,
    }  # fmt: skip
    return SftConfig(**{**values, **changes})


def record(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in record(run) if "loss" in line]


def loss_of(folder: Path | str, settings: SftConfig) -> float:
    """Mean loss of the trained tokens of the first two batches, by transformers alone, in float32."""
    from transformers import AutoModelForCausalLM

    rows = OpenRows(Job(settings, settings.model, "", 2, 2, sft.RANK))
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert all(parameter.numel() for parameter in net.parameters())
    batch = Collate(rows.pad_id, logits_to_keep=True)([rows.example(task) for step in (0, 1) for task in rows.batch(step)])
    with torch.no_grad():
        return net(**batch).loss.item()


@pytest.mark.parametrize(
    ("learning_rate", "said"),
    [(1e30, "step 2: the loss is NaN or infinite"), (1e39, "step 1: a weight is NaN or infinite, so no checkpoint is written")],
)
def test_a_run_that_diverges_ends_before_it_saves_what_is_no_number(model, tmp_path, learning_rate, said):
    settings = config(model, tmp_path, learning_rate=learning_rate, save_every=1, ray=INLINE)
    with pytest.raises(UserError, match=said):
        sft.run(settings)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert kept == (["checkpoint-1"] if learning_rate == 1e30 else [])
    assert not (tmp_path / "model").exists()


def check_model(run: Path, settings: SftConfig) -> None:
    """The folder is complete and its weights are the trained ones."""
    from transformers import AutoTokenizer

    folder = run / "model"
    assert loss_of(folder, settings) < loss_of(settings.model, settings) - 0.05
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert (folder / "generation_config.json").is_file()
    assert (folder / "README.md").is_file()


@pytest.mark.slow
def test_two_ranks_with_zero_2_learn_what_one_rank_learns(ray_session, model: str, tmp_path: Path) -> None:
    two = config(model, tmp_path / "two", ranks=2, zero_stage=2)
    assert sft.run(two) == tmp_path / "two"
    check_model(tmp_path / "two", two)
    sft.run(config(model, tmp_path / "one", zero_stage=0, ray=INLINE))
    # Rows differ in length, so this holds only with one token denominator over ranks and micro-batches.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-4)
    assert record(tmp_path / "two")[-1]["heldout/loss"] == pytest.approx(record(tmp_path / "one")[-1]["heldout/loss"], abs=2e-4)
    assert sft.run(two) == tmp_path / "two"  # finished: says so and returns


def test_zero_3_and_lora_save_merged_weights_and_the_adapter(model: str, tmp_path: Path) -> None:
    settings = config(model, tmp_path / "run", zero_stage=3, lora=LoraSection(r=8, alpha=16.0), learning_rate=2e-2, ray=INLINE)
    sft.run(settings)
    check_model(tmp_path / "run", settings)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").stat().st_size > 1000


@pytest.mark.parametrize("stage", [0, 3])
def test_an_output_head_of_its_own_is_trained_and_saved_though_the_configuration_ties_it(tmp_path: Path, stage: int) -> None:
    start = rewrite_model(tiny_model(tmp_path / "start", tied=False, scale=0.02), config={"tie_word_embeddings": True})
    sft.run(config(start, tmp_path / "run", zero_stage=stage, max_steps=2, ray=INLINE))
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (start, tmp_path / "run" / "model"))
    assert before.keys() == after.keys()
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 0.01  # two steps of 3e-3
    assert not torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_an_interrupted_run_resumes_to_the_same_weights(model: str, tmp_path: Path, dtype: str) -> None:
    whole = config(model, tmp_path / "whole", ray=INLINE, save_every=2, dtype=dtype)
    sft.run(whole)
    cut = config(model, tmp_path / "cut", ray=INLINE, save_every=2, dtype=dtype)
    sft.run(cut)
    (tmp_path / "cut" / "finished.json").unlink()
    (tmp_path / "cut" / "checkpoints" / "checkpoint-4" / "manifest.json").unlink()  # as if it had not been completed
    sft.run(cut)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_a_checkpoint_with_foreign_objects_is_not_loaded(model: str, tmp_path: Path) -> None:
    settings = config(model, tmp_path / "run", ray=INLINE, save_every=2)
    sft.run(settings)
    (tmp_path / "run" / "finished.json").unlink()
    (tmp_path / "run" / "checkpoints" / "checkpoint-4" / "manifest.json").unlink()
    target = next((tmp_path / "run" / "checkpoints" / "checkpoint-2").glob("global_step*/*optim_states.pt"))
    torch.save({"evil": _Evil(str(tmp_path / "ran"))}, target)
    write_manifest(tmp_path / "run" / "checkpoints" / "checkpoint-2")
    with pytest.raises(Exception, match=r"(?i)weights.?only|unsupported"):
        sft.run(settings)
    assert not (tmp_path / "ran").exists()


class _Evil:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_what_a_rank_finds_wrong_gives_a_one_sentence_error(ray_session, model: str, tmp_path: Path) -> None:
    lora = LoraSection(r=4, target_modules=("no_such_layer",))
    with pytest.raises(UserError, match="no_such_layer"):
        sft.run(config(model, tmp_path / "run", ranks=2, lora=lora))


def test_a_batch_that_ranks_cannot_share_is_refused_at_once(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use batch_size=9"):
        sft.run(config(model, tmp_path / "run", ranks=3, batch_size=8))
    assert not (tmp_path / "run").exists()


def test_rows_without_thought_are_left_out_and_long_ones_cut(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    think = "The document says it. "
    rows = [
        {"query": f"q{i}", "document": "d", "think": think * (1 + i % 3) if i % 4 else "", "answer": "yes", "label": 1}
        for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config(
        model, tmp_path / "run", data=str(tmp_path / "rows.jsonl"), heldout_share=0.0, max_steps=0, max_new_tokens=90, ray=INLINE
    )
    sft.run(settings)
    assert "10 rows without a thought dropped" in capsys.readouterr().out
    last = record(tmp_path / "run")[-1]
    assert last["cut_prompts"] == 0
    assert last["rows"] == 24  # 30 rows with a thought: 3 steps of 8
    assert 0 < last["cut"] < 24


@pytest.mark.parametrize(
    "answer", ["permutation", *(pytest.param(answer, marks=pytest.mark.slow) for answer in ("pick", "scores"))]
)
def test_lists_of_the_built_in_task_are_learned(model: str, tmp_path: Path, answer: str) -> None:
    settings = config(
        model, tmp_path / "run", answer=answer, candidates=4, system_prompt="", max_prompt_tokens=1200, ray=INLINE
    )  # fmt: skip
    rows = OpenRows(Job(settings, settings.model, "", 2, 2, sft.RANK))
    task = rows.batch(0)[0]
    assert SYSTEM_PROMPTS[settings.form] in rows.tokenizer.decode(rows.example(task).prompt_ids)
    assert isinstance(task, ListwiseTask)
    sft.run(settings)
    check_model(tmp_path / "run", settings)
    last = record(tmp_path / "run")[-1]
    assert (last["cut"], last["cut_prompts"]) == (0, 0)


def test_the_door_takes_lists_that_carry_thoughts(model: str, tmp_path: Path) -> None:
    hits = [{"content": "The tax.", "label": 0}, {"content": "The [2] river.", "label": 2}, {"content": "A port.", "label": 1}]
    rows: list[dict] = [{"query": f"q{i}", "hits": hits, "think": "[2] says it." if i % 4 else ""} for i in range(32)]
    rows[1]["answer"] = "[3] > [1] = [2]"
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, object] = {
        "model": model, "output": tmp_path / "run", "answer": "permutation", "data": data, "max_label": 2, "heldout_share": 0.0,
        "batch_size": 8, "learning_rate": 3e-3, "max_prompt_tokens": 900, "ray.inline": "true",
    }  # fmt: skip
    done = launch_here("sft", settings)
    assert "8 lists without a thought dropped" in done.stdout
    assert len(losses(tmp_path / "run")) == 3  # 24 rows with a thought
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    same = config(model, tmp_path, answer="permutation", data=str(data), max_label=2, heldout_share=0.0, max_prompt_tokens=900)
    read = OpenRows(Job(same, model, "", 3, 3, sft.RANK))
    texts = [read.tokenizer.decode(read.example(task).completion_ids) for step in range(3) for task in read.batch(step)]
    assert texts.count("<think>[2] says it.</think><answer>[3] > [1] = [2]</answer><|im_end|>") == 1
    assert texts.count("<think>[2] says it.</think><answer>[2] > [3] > [1]</answer><|im_end|>") == 23
    rows[1]["answer"] = "[3] > [1]"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = launch_here("sft", {**settings, "fresh": "true"}, code=2)
    assert "rows.jsonl:2" in refused.stderr


def test_sigterm_saves_and_the_same_command_goes_on(model: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    settings: dict[str, object] = {
        "model": model, "output": output, "system_prompt": "Judge.", "builtin_rows": 400, "batch_size": 4, "max_new_tokens": 400,
        "heldout_share": 0.0, "gradient_checkpointing": "false", "learning_rate": 0.003, "ray.inline": "true",
        "micro_batch_size": 1, "zero_stage": 2, "max_steps": 60,
    }  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command("sft", settings), env=environment(), text=True, **pipes)
    deadline = time.monotonic() + 240
    lines = output / "metrics.jsonl"
    while (not lines.is_file() or lines.stat().st_size == 0) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 143, text
    done = len(losses(output))
    assert 0 < done < 60
    assert (output / "checkpoints" / f"checkpoint-{done}" / "manifest.json").is_file()
    assert f"resuming after step {done} of 60" in launch_here("sft", settings).stdout
    assert [line["step"] for line in record(output) if "loss" in line] == list(range(1, 61))


@pytest.mark.slow
def test_two_ranks_on_a_ray_of_ones_own_listen_on_loopback_alone(model: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    settings: dict[str, object] = {
        "model": model, "output": output, "system_prompt": "Judge.", "batch_size": 4, "max_new_tokens": 400, "ranks": 2,
        "heldout_share": 0.0, "max_steps": 60, "ray.address": "local",
    }  # fmt: skip
    process = subprocess.Popen(command("sft", settings), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = output / "metrics.jsonl"
    while (not lines.is_file() or lines.stat().st_size == 0) and process.poll() is None:
        time.sleep(0.1)
    found = listening(process.pid)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 143, text
    assert found <= LOOPBACK


# Any two of stage, rank of the adapter, precision and checkpointing meet in every combination.
PAIRWISE = [
    (stage, rank, ("fp32", "bf16")[(stage + turn) % 2], bool((stage // 2 + turn) % 2))
    for stage in range(4)
    for turn, rank in enumerate((0, 8))
]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "rank", "dtype", "checkpointing"), PAIRWISE)
def test_every_stage_saves_what_it_trained(
    ray_session, model: str, tmp_path: Path, stage: int, rank: int, dtype: str, checkpointing: bool
) -> None:
    settings = config(
        model, tmp_path / "run", ranks=2, zero_stage=stage, dtype=dtype, gradient_checkpointing=checkpointing,
        lora=LoraSection(r=rank, alpha=16.0), learning_rate=2e-2 if rank else 3e-3,
    )  # fmt: skip
    sft.run(settings)
    check_model(tmp_path / "run", settings)
