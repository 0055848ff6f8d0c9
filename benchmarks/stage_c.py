"""Stage C's figures over several seeds: held-out nDCG@10, format rate and calibration error before and after, paired test, time.

    python benchmarks/stage_c.py [--model runs/demo/model] [--seeds 42 43 44] [key=value …]

Learns on the built-in graded lists, with thinking switched off, from the demo's model; without --model the demo is run first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from r0.launch import default_config

SETTINGS = {
    "builtin_rows": 1500, "candidates": 6, "batch_size": 8, "micro_batch_size": 8, "max_steps": 100, "eval_lists": 100,
    "learning_rate": 4e-4, "kl_coef": 1.0, "max_prompt_tokens": 320, "max_new_tokens": 96, "gradient_checkpointing": "false",
    "zero_stage": 0, "ray.inline": "true",
}  # fmt: skip
TARGET_NDCG, TARGET_FORMAT, ALPHA = 0.03, 0.01, 0.05


def launch(command: str, settings: dict[str, object]) -> None:
    """Run a command of r0 to its end."""
    line = [sys.executable, "-m", "r0.launch", command, *(f"{name}={value}" for name, value in settings.items())]
    finished = subprocess.run(line, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"{command} failed:\n{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}")


def one(model: Path, seed: int, extra: list[str], output: Path) -> bool:
    """Stage C with one seed; prints its figures, and says whether they reach the targets."""
    prompt = yaml.safe_load(default_config("demo").read_text())["system_prompt"]
    given = dict(text.split("=", 1) for text in extra)
    began = time.monotonic()
    launch("stage_c", {**SETTINGS, "system_prompt": prompt, "model": model, "seed": seed, "output": output, **given})
    seconds = time.monotonic() - began
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    before, after = [line for line in lines if "heldout/ndcg@10" in line]
    print(f"seed {seed}: {seconds:.0f} s, {after['step']} steps")
    for name in ("ndcg@10", "ndcg@10_given", "format_rate", "well_formed_rate", "ece"):
        first, last = before[f"heldout/{name}"], after[f"heldout/{name}"]
        print(f"  {name:<18} {first:.3f} → {last:.3f}  ({last - first:+.3f})")
    p = after["heldout/ndcg@10_change_p"]
    print(f"  paired t-test of nDCG@10 over the lists: p = {p:.2g}", flush=True)
    gain = after["heldout/ndcg@10"] - before["heldout/ndcg@10"]
    moved = abs(after["heldout/format_rate"] - before["heldout/format_rate"])
    return gain >= TARGET_NDCG and p < ALPHA and moved <= TARGET_FORMAT


def main() -> None:
    """Run all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model that the demo made; without it the demo is run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), arguments.model
        if model is None:
            launch("demo", {"output": folder / "demo"})
            model = folder / "demo" / "model"
        reached = [one(model.absolute(), seed, arguments.overrides, folder / f"stage_c-{seed}") for seed in arguments.seeds]
    targets = f"nDCG@10 +{TARGET_NDCG}, p < {ALPHA}, format within {TARGET_FORMAT}"
    print(f"targets reached ({targets}): {sum(reached)} of {len(reached)}")


if __name__ == "__main__":
    main()
