"""Whole commands of r0 on the card: supervised training in this process, and GRPO with a learner and an engine on one card."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_check_parts.claims import Report
from benchmarks.gpu_check_parts.setting import ROOT, Setting

SFT_STEPS, GRPO_STEPS = 8, 2
PHASES = ("sample", "reward", "learn", "sync", "checkpoint")


def sft(setting: Setting, report: Report) -> None:
    """``sft`` of a random model on the built-in task, whose rows are of unlike length; the rank is this process."""
    import torch

    from r0.launch import main

    output = setting.scratch / "sft"
    settings: dict[str, Any] = {
        "model": setting.chat_model(setting.run_shape), "data": "builtin", "builtin_rows": 400, "output": output,
        "batch_size": 8, "micro_batch_size": 2, "max_steps": SFT_STEPS, "learning_rate": 1e-4, "ray.inline": "true",
    }  # fmt: skip
    code = main(["sft", *(f"{key}={value}" for key, value in settings.items())])
    if code:
        return report.claim("learns", False, f"exit code {code}")
    losses = [line["loss"] for line in _record(output, "metrics.jsonl") if "loss" in line]
    seconds = [line["learn"] for line in _record(output, "timings.jsonl") if "learn" in line]
    shutil.rmtree(output)
    held = len(losses) == SFT_STEPS and all(math.isfinite(loss) for loss in losses) and losses[-1] < losses[0]
    note = f"loss {losses[0]:.2f} to {losses[-1]:.2f}; steps of {', '.join(f'{each:.2f}' for each in seconds)} s"
    if not setting.cuda:
        report.skip("card", "on a CPU")
    else:
        peak = torch.cuda.max_memory_allocated() / 2**30
        cudnn = torch.backends.cuda.cudnn_sdp_enabled()
        report.claim("card", peak > 0 and not cudnn, f"peak {peak:.1f} GiB, cuDNN attention {'on' if cudnn else 'off'}")
    return report.claim("learns", held, note, losses=losses, seconds=seconds)


def grpo(setting: Setting, report: Report) -> None:
    """``r0.launch stage_a`` as a user starts it: one step with the weights of the start, and one with synced ones."""
    output = setting.scratch / "grpo"
    settings: dict[str, Any] = {
        "model": setting.chat_model(setting.run_shape), "data": "builtin", "builtin_rows": 200, "output": output, "algo": "grpo",
        "grpo.num_generations": 4, "batch_size": 8, "max_steps": GRPO_STEPS, "max_prompt_tokens": 320, "max_new_tokens": 96,
        "kl_coef": 0.0, "learning_rate": 1e-5, "eval.every": 0, "checkpoint.every": 0,
    }  # fmt: skip
    shared = {"learner.gpus": 0.5, "rollout.gpus": 0.5, "rollout.enforce_eager": "true"}
    settings |= shared if setting.cuda else {"rollout.kv_cache_gib": 0.25}
    line = [sys.executable, "-m", "r0.launch", "stage_a", *(f"{key}={value}" for key, value in settings.items())]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no message"]
        print(done.stdout[-3000:], done.stderr[-6000:], sep="\n", file=sys.stderr)
        return report.claim("step", False, f"exit code {done.returncode}: {lines[-1]}")
    steps = [entry for entry in _record(output, "metrics.jsonl") if "gap" in entry]
    seconds = [entry for entry in _record(output, "timings.jsonl") if "total" in entry]
    saved = (output / "model" / "config.json").is_file()
    shutil.rmtree(output)
    gaps = [entry["gap"] for entry in steps]
    held = len(steps) == GRPO_STEPS and all(math.isfinite(entry["loss"]) for entry in steps) and max(gaps) <= 0.05 and saved
    note = f"gaps {', '.join(f'{gap:.4f}' for gap in gaps)} nats; the last step took {_times(seconds[-1])}"
    return report.claim("step", held, note, gaps=gaps, seconds=seconds)


def _record(output: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / name).read_text().splitlines()]


def _times(entry: dict[str, Any]) -> str:
    return f"{entry['total']:.1f} s ({', '.join(f'{name} {entry[name]:.1f}' for name in PHASES if name in entry)})"
