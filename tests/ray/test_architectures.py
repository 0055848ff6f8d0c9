"""Every model that has a preset, as a tiny random one of its architecture, through every command that the preset names.

A command is one line of ``SETTINGS``; what it is tried on follows from the presets. What is checked is the same for all: the
engine's log-probabilities are the learner's (so weights arrive in vLLM, also after they have changed), and the folder that comes
out is one of the same architecture with other weights, which transformers loads and r0.rerank uses on both engines. What
``finetune`` writes scores pairs alike in transformers, sentence-transformers and r0.rerank.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from r0.config.models import NAMES, preset
from r0.launch import main
from r0.rerank import Reranker
from r0.rewards import register
from tests.architectures import ARCHITECTURES, build
from tests.launching import record, scores_elsewhere

pytestmark = pytest.mark.ray

GAP = 1e-3  # nats, float32
TRAINING = {
    "system_prompt": "Judge.", "builtin_rows": 60, "heldout_share": 0.2, "max_steps": 2, "batch_size": 4, "learning_rate": 1e-2,
    "max_prompt_tokens": 900, "gradient_checkpointing": "false", "ray.inline": "true",
}  # fmt: skip
RL = {
    **TRAINING, "algo": "grpo", "grpo.num_generations": 4, "max_new_tokens": 24, "eval.every": 0, "rollout.engine": "vllm",
    "reward.name": "drawn", "sync.gap_warn": GAP,
}  # fmt: skip
SETTINGS: dict[str, dict[str, object]] = {
    "sft": {**TRAINING, "max_new_tokens": 400, "lora.r": 4},
    "stage_a": RL,
    "stage_b": {**RL, "candidates": 4, "learner.lora.r": 4},
    "stage_c": {**TRAINING, "candidates": 4, "max_new_tokens": 24, "eval_lists": 2},
    "finetune": {
        "builtin_rows": 16, "train_group_size": 4, "max_steps": 2, "batch_size": 4, "learning_rate": 1e-2, "warmup_ratio": 0.0,
        "gradient_checkpointing": "false", "ray.inline": "true", "lora.r": 4,
    },
}  # fmt: skip
REPRESENTATIVES = [("mobilellm-r1-950m", "stage_a"), ("bge-reranker-v2-m3", "finetune")]
CASES = [(name, command) for name in NAMES for command in preset(name).commands if command in SETTINGS]
WRITERS = [name for name in NAMES if ARCHITECTURES[name].head == "causal"]
PAIRS = [("where is it", "It is in the harbor."), ("where is it", "A tax."), ("who", "yes"), ("who", "No one, no. " * 20)]


@register("drawn")
def _drawn(section):
    """A random model earns the same for everything it writes, and learns nothing from it: here the dice say what it earns."""
    dice = random.Random(0)
    return lambda verdict, label: {"drawn": dice.random()}


def slow_but(representatives, cases):
    return [pytest.param(*case, marks=() if case in representatives else pytest.mark.slow, id="-".join(case)) for case in cases]


@pytest.mark.parametrize(("name", "command"), slow_but(REPRESENTATIVES, CASES))
def test_an_architecture_goes_through_a_command(tmp_path, name, command):
    start, run = build(name, tmp_path / "start"), tmp_path / "run"
    settings = {**SETTINGS[command], "model": start, "output": run}
    if command == "finetune":  # encoders have 512 positions
        settings["max_prompt_tokens"] = 900 if ARCHITECTURES[name].head == "causal" else 400
    assert main([command, f"model_preset={name}", *(f"{key}={value}" for key, value in settings.items())]) == 0
    lines = record(run)
    gaps = [line["gap"] for line in lines if "gap" in line]
    assert len(gaps) == (2 if "reward.name" in settings else 0)
    assert all(gap < GAP for gap in gaps)
    (check_scorer if command == "finetune" else check_folder)(Path(start), run / "model")


def check_folder(start: Path, folder: Path) -> None:
    """The same architecture and template with other weights, which r0.rerank uses."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before, after = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32) for one in (start, folder))
    assert type(after) is type(before)
    assert {key: after.config.to_dict()[key] for key in STRUCTURE} == {key: before.config.to_dict()[key] for key in STRUCTURE}
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    assert all(weight.isfinite().all() for weight in new.values())
    assert max((new[name] - old[name]).abs().max() for name in old) > 1e-3
    templates = [AutoTokenizer.from_pretrained(one).chat_template for one in (start, folder)]
    assert templates[0] == templates[1]
    with Reranker(folder, "pointwise", engine="hf", thinking=False, max_new_tokens=16) as reranker:
        found = reranker.predict(PAIRS)
    assert ((found > 0) & (found < 1)).all()


def check_scorer(start: Path, folder: Path) -> None:
    """The same architecture with other weights (a base without one has got a score head); three libraries score pairs alike."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

    before, after = (AutoConfig.from_pretrained(one).to_dict() for one in (start, folder))
    assert {key: after.get(key) for key in STRUCTURE} == {key: before.get(key) for key in STRUCTURE}
    heads = {"CausalLM": AutoModelForCausalLM, "MaskedLM": AutoModelForMaskedLM}
    old, new = (
        heads.get(config["architectures"][0].rpartition("For")[2], AutoModelForSequenceClassification)
        .from_pretrained(one, dtype=torch.float32).state_dict()
        for config, one in ((before, start), (after, folder))
    )  # fmt: skip
    shared = old.keys() & new.keys()
    assert len(shared) > len(old) / 2
    assert max((new[name] - old[name]).abs().max() for name in shared) > 1e-3
    found = scores_elsewhere(folder, PAIRS, folder.parent / "pairs.json")
    assert found["transformers"] == pytest.approx(found["sentence_transformers"], abs=1e-4)
    assert found["r0"] == pytest.approx(found["predicted"], abs=1e-4)
    assert max(found["transformers"]) - min(found["transformers"]) > 1e-3


STRUCTURE = ("model_type", "hidden_size", "num_hidden_layers", "num_key_value_heads", "tie_word_embeddings", "vocab_size")


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_vllm_and_transformers_give_the_same_probabilities_of_yes(tmp_path, name):
    folder = build(name, tmp_path / "model")
    found = []
    for engine in ("hf", "vllm"):
        with Reranker(folder, "pointwise", engine=engine, thinking=False, max_new_tokens=16) as reranker:
            found.append(reranker.predict(PAIRS))
            assert [one["corpus_id"] for one in reranker.rank("who", ["a", "b"])]
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert max(found[0]) - min(found[0]) > 1e-3
