"""What r0 does with each architecture: one cell is one command on a tiny random model (``architectures.py``), really run.

A cell is ``right``, or ``refused`` with a sentence, or a known ``defect`` of another project. Anything else raises. Outcomes are
kept in ``catalogue.json``, from which ``scripts/models_page.py`` writes docs/models.md; ``test_architectures.py`` repeats them.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import logit

from r0.errors import UserError
from r0.launch import main
from r0.rerank import Reranker
from r0.rewards import register
from tests.architectures import ARCHITECTURES, OTHERS, build
from tests.launching import record, scores_elsewhere

OUTCOMES = Path(__file__).with_suffix(".json")
GAP = 1e-3  # nats, float32
CHANGE = 0.5  # of a weight by two steps at most; weights drawn anew differ by more than 1
TRAINING = {
    "system_prompt": "Judge.", "builtin_rows": 60, "heldout_share": 0.2, "max_steps": 2, "batch_size": 4, "learning_rate": 1e-2,
    "max_prompt_tokens": 900, "gradient_checkpointing": "false", "ray.inline": "true",
}  # fmt: skip
RL = {
    **TRAINING, "algo": "grpo", "grpo.num_generations": 4, "max_new_tokens": 24, "eval.every": 0, "rollout.engine": "vllm",
    "reward.name": "drawn", "sync.gap_warn": GAP,
}  # fmt: skip
PPO = {**{key: value for key, value in RL.items() if key != "grpo.num_generations"}, "algo": "ppo"}
HF = {"rollout.engine": "hf"}
SFT = {**TRAINING, "max_new_tokens": 400}
STAGE_C = {**TRAINING, "candidates": 4, "max_new_tokens": 24, "eval_lists": 2}
FINETUNE = {
    "builtin_rows": 16, "train_group_size": 4, "max_steps": 2, "batch_size": 4, "learning_rate": 1e-2, "warmup_ratio": 0.0,
    "gradient_checkpointing": "false", "ray.inline": "true",
}  # fmt: skip
COLUMNS: dict[str, tuple[str, dict[str, object]]] = {  # command and settings
    "sft": ("sft", SFT),
    "sft, LoRA": ("sft", {**SFT, "lora.r": 4}),
    "GRPO, hf": ("stage_a", {**RL, **HF}),
    "PPO, hf": ("stage_a", {**PPO, **HF}),
    "GRPO, LoRA, hf": ("stage_a", {**RL, **HF, "learner.lora.r": 4}),
    "GRPO, vLLM": ("stage_a", RL),
    "PPO, vLLM": ("stage_a", PPO),
    "GRPO, LoRA, vLLM": ("stage_a", {**RL, "learner.lora.r": 4}),
    "stage_c": ("stage_c", {**STAGE_C, **HF}),
    "rerank, hf": ("rerank", {"engine": "hf"}),
    "rerank, vLLM": ("rerank", {"engine": "vllm"}),
    "finetune": ("finetune", FINETUNE),
}
ROWS = {  # title: key of ARCHITECTURES or OTHERS
    "Llama": "llama", "Qwen2": "deepseek-r1-distill-qwen-1.5b", "Qwen3": "qwen3-0.6b", "Qwen3-MoE": "qwen3-moe",
    "Qwen3.5 (text)": "qwen3.5", "Mistral, sliding window": "mistral", "Mixtral": "mixtral", "gpt-oss": "gpt-oss",
    "Gemma 2": "gemma-2", "Gemma 3 (text)": "gemma-3", "Gemma 3 (multimodal wrapper)": "gemma-3-multimodal", "Phi-3": "phi-3",
    "SmolLM3": "smollm3", "OLMo 2": "olmo-2", "Granite": "granite", "GPT-NeoX": "gpt-neox", "OPT, dropout 0.1": "opt",
    "LFM2": "lfm2", "MobileLLM-R1 (Llama 4 text)": "mobilellm-r1-950m", "XLM-R": "bge-reranker-v2-m3",
    "BERT": "bert-base-uncased", "ModernBERT": "modernbert",
}  # fmt: skip
DEFECTS: dict[tuple[str, str], tuple[str, str]] = {}
"""Cell → (part of the message of what fails, the other project's issue)."""
PAIRS = [("where is it", "It is in the harbor."), ("where is it", "A tax."), ("who", "yes"), ("who", "No one, no. " * 20)]
STRUCTURE = ("model_type", "hidden_size", "num_hidden_layers", "num_key_value_heads", "tie_word_embeddings", "vocab_size")


@register("drawn")
def _drawn(section):
    """A random model earns the same for everything it writes, and learns nothing from it: here the dice say what it earns."""
    dice = random.Random(0)
    return lambda verdict, label: {"drawn": dice.random()}


def applies(row: str, column: str) -> bool:
    """Whether the cell has a meaning: encoders are fine-tuned, decoders write."""
    encoder = (ARCHITECTURES | OTHERS)[ROWS[row]].head != "causal"
    return encoder == (column == "finetune")


def run_cell(row: str, column: str, folder: Path) -> dict[str, object]:
    """Run a cell in ``folder``, check what it made, and return its outcome: ``state`` and what belongs to it.

    Raises:
        AssertionError: it is neither right nor refused in a sentence; or what a command raised.
    """
    start = build(ROWS[row], folder / "start")
    command, settings = COLUMNS[column]
    try:
        if command == "rerank":
            check_rerank(start, str(settings["engine"]))
            return {"state": "right"}
        if command == "finetune":
            settings = {**settings, "max_prompt_tokens": 400}
        code, said = launched(command, {**settings, "model": start, "output": folder / "run"})
        if code == 2 and not said.startswith("step "):  # of a step: training has begun, and engine and learner are apart
            return {"state": "refused", "message": said}
        assert code == 0, said
        gap = check_gaps(folder / "run", command)
        model = folder / "run" / "model"
        if command == "finetune":
            check_scorer(Path(start), model)
        else:
            check_folder(Path(start), model, pairs=command == "stage_c")
        return {"state": "right", **gap}
    except UserError as error:
        return {"state": "refused", "message": neutral(str(error), start)}
    except Exception as error:
        part, issue = DEFECTS.get((row, column), ("", ""))
        if not part or part not in str(error):
            raise
        return {"state": "defect", "message": issue}


def launched(command: str, settings: dict[str, object]) -> tuple[int, str]:
    """Run a command in this process: its exit code, and its last line on stderr without names of folders."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main([command, *(f"{key}={value}" for key, value in settings.items())])
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    return code, neutral(lines[-1] if lines else "", str(settings["model"]))


def neutral(text: str, folder: str) -> str:
    """``text`` without the test's own folder and the program's name."""
    return text.replace(folder, "MODEL").removeprefix("r0: ")


def check_gaps(run: Path, command: str) -> dict[str, float]:
    """In RL: after a start and after an update the engine's log-probabilities are the learner's. The largest gap."""
    gaps = [line["gap"] for line in record(run) if "gap" in line]
    assert len(gaps) == (2 if command in ("stage_a", "stage_b") else 0)
    assert all(gap < GAP for gap in gaps), gaps
    return {"gap": max(gaps)} if gaps else {}


def check_folder(start: Path, folder: Path, pairs: bool = False) -> None:
    """The same architecture and template (unless it has to write ``pairs`` too) with other weights, but not with weights of
    anything else; r0.rerank uses it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before, after = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32) for one in (start, folder))
    assert type(after) is type(before)
    assert structure(after.config) == structure(before.config)
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    assert all(weight.isfinite().all() for weight in new.values())
    change = max(float((new[name] - old[name]).abs().max()) for name in old)
    assert 1e-3 < change < CHANGE, change
    templates = [AutoTokenizer.from_pretrained(one).chat_template for one in (start, folder)]
    assert (templates[0] == templates[1]) != pairs
    with Reranker(folder, "pointwise", engine="hf", thinking=False, max_new_tokens=16) as reranker:
        found = reranker.predict(PAIRS)
    assert ((found > 0) & (found < 1)).all()


def check_scorer(start: Path, folder: Path) -> None:
    """The same architecture with other weights (a base without one has got a score head); three libraries score pairs alike."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

    before, after = (AutoConfig.from_pretrained(one) for one in (start, folder))
    assert structure(after) == structure(before)
    heads = {"CausalLM": AutoModelForCausalLM, "MaskedLM": AutoModelForMaskedLM}
    old, new = (
        heads.get(config.architectures[0].rpartition("For")[2], AutoModelForSequenceClassification)
        .from_pretrained(one, dtype=torch.float32).state_dict()
        for config, one in ((before, start), (after, folder))
    )  # fmt: skip
    shared = old.keys() & new.keys()
    assert len(shared) > len(old) / 2
    assert max((new[name] - old[name]).abs().max() for name in shared) > 1e-3
    found = scores_elsewhere(folder, PAIRS, folder.parent / "pairs.json")
    for one, other in (("transformers", "sentence_transformers"), ("r0", "predicted")):
        assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(found[one], found[other], strict=True))
    assert max(found["transformers"]) - min(found["transformers"]) > 1e-3


def structure(config) -> dict[str, object]:
    """What training must leave as it is."""
    settings = config.get_text_config().to_dict()
    return {key: settings.get(key) for key in STRUCTURE}


def check_rerank(start: str, engine: str) -> None:
    """Probabilities of yes, with vLLM those of the engine hf."""
    with Reranker(start, "pointwise", engine=engine, thinking=False, max_new_tokens=16) as reranker:
        found = reranker.predict(PAIRS)
        assert [one["corpus_id"] for one in reranker.rank("who", ["a", "b"])]
    if engine == "hf":
        assert ((found > 0) & (found < 1)).all()
        return
    with Reranker(start, "pointwise", engine="hf", thinking=False, max_new_tokens=16) as reranker:
        want = reranker.predict(PAIRS)
    assert float(abs(found - want).max()) < 1e-4, (found, want)
    odds, wanted = (logit(torch.as_tensor(one, dtype=torch.float64), eps=1e-6) for one in (found, want))
    apart, spread = float((odds - wanted).abs().max()), float(odds.max() - odds.min())
    assert apart < 0.01  # where all probabilities are near 0 or 1
    assert apart < 0.1 * spread, found  # where all are alike


def outcomes() -> dict[str, dict[str, dict[str, object]]]:
    """Those on record: row → column → outcome."""
    return json.loads(OUTCOMES.read_text())["cells"] if OUTCOMES.exists() else {}


def recorded() -> Iterator[tuple[str, str, dict[str, object]]]:
    """All cells on record."""
    for row, columns in outcomes().items():
        for column, outcome in columns.items():
            yield row, column, outcome
