"""Stage B on the built-in lists over several seeds: a warm start from a careless log, RL on it, and what RL changed on held-out
lists, beside the given order; wall time of both.

    python benchmarks/stage_b.py [--seeds 42 43 44] [--answer permutation] [key=value …]

Further keys go to stage_b.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
SHOWN = (
    "ndcg@10_well_formed",
    "ndcg@10_given_well_formed",
    "ndcg@10",
    "ndcg@10_given",
    "ndcg@10_gain_p",
    "well_formed_rate",
    "probe/lookup",
    "probe/verdict",
)


def launch(command: str, config: str, *overrides: str) -> float:
    """Run a command with a shipped configuration; returns the seconds that it took."""
    start = time.monotonic()
    arguments = [sys.executable, "-m", "r0.launch", command, str(CONFIGS / config), *overrides]
    finished = subprocess.run(arguments, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"{command} failed:\n{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}")
    return time.monotonic() - start


def one(seed: int, answer: str, extra: list[str], folder: Path) -> dict[str, float]:
    """Warm start and RL with one seed; prints the figures, returns those that decide."""
    warm, run = folder / f"warm-{seed}", folder / f"run-{seed}"
    keys = [f"seed={seed}", f"answer={answer}"]
    seconds = [launch("sft", "sft_lists_tiny.yaml", *keys, f"output={warm}")]
    seconds += [launch("stage_b", "stage_b_tiny.yaml", *keys, f"model={warm / 'model'}", f"output={run}", *extra)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "heldout/sampled/reward" in line]
    print(f"seed {seed}: warm start {seconds[0]:.0f} s, stage_b {seconds[1]:.0f} s, {max(line['step'] for line in lines)} steps")
    for mode in ("sampled", "greedy"):
        for name in SHOWN:
            before, after = (line.get(f"heldout/{mode}/{name}", float("nan")) for line in (evaluations[0], evaluations[-1]))
            print(f"  {mode + ' ' + name:<40} {before:>10.4g} → {after:>10.4g}  ({after - before:+.3f})")
    steps = [line["seconds/total"] for line in lines if "seconds/total" in line]
    if steps:
        print(f"  a step: {statistics.median(steps):.1f} s (median)")
    first, last = evaluations[0], evaluations[-1]
    well_formed = "heldout/sampled/ndcg@10_well_formed"
    return {
        "seconds": sum(seconds),
        "gain": last[well_formed] - first[well_formed],
        "above_given": last[well_formed] - last["heldout/sampled/ndcg@10_given_well_formed"],
        "p": last["heldout/sampled/ndcg@10_gain_p"],
        "well_formed": last["heldout/sampled/well_formed_rate"],
    }


def main() -> None:
    """Run all seeds, then one line a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--answer", choices=["permutation", "pick", "scores"], default="permutation")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {seed: one(seed, arguments.answer, arguments.overrides, Path(folder)) for seed in arguments.seeds}
    print("\nheld-out nDCG@10 among well-formed answers, sampled")
    print(f"{'seed':>6} {'seconds':>8} {'gain':>8} {'above given':>12} {'p':>10} {'well formed':>12}")
    for seed, values in found.items():
        print(
            f"{seed:>6} {values['seconds']:>8.0f} {values['gain']:>+8.3f} {values['above_given']:>+12.3f} {values['p']:>10.1e} "
            f"{values['well_formed']:>12.3f}"
        )


if __name__ == "__main__":
    main()
