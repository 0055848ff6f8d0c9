"""The demo's figures over several seeds: what RL changed on held-out tasks, wall time, the share of a step outside sampling and
learning, and memory from the second quarter of the steps to the last.

    python benchmarks/demo.py [--seeds 42 43 44] [--algo grpo] [key=value …]
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

SHOWN = ("heldout/sampled/reward", "heldout/sampled/accuracy_well_formed", "heldout/sampled/constant_answer")


def one(seed: int, algo: str, extra: list[str], folder: Path) -> None:
    """Run the demo once and print its figures."""
    output = folder / f"{algo}-{seed}"
    start = time.monotonic()
    command = [sys.executable, "-m", "r0.launch", "demo", f"seed={seed}", f"algo={algo}", f"output={output}", *extra]
    finished = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if finished.returncode:
        raise SystemExit(f"the demo failed:\n{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}")
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in metrics if "heldout/sampled/reward" in line]
    print(f"seed {seed}, {algo}: {seconds:.0f} s, {max(line['step'] for line in metrics)} steps")
    for name in SHOWN:
        before, after = evaluations[0][name], evaluations[-1][name]
        print(f"  {name:<40} {before:.3f} → {after:.3f}  ({after - before:+.3f})")
    report(output / "timings.jsonl")


def report(timings: Path) -> None:
    """Overhead and memory from a run's timings."""
    lines = [json.loads(line) for line in timings.read_text().splitlines()]
    steps = [line for line in lines if "step" in line and "learn" in line and "sample" in line]
    if len(steps) < 8:
        return
    overhead = [1 - (line["sample"] + line["learn"]) / line["total"] for line in steps[1:]]
    if overhead:
        print(f"  outside sampling and learning: {statistics.median(overhead):.1%} of a step (median)")
    quarter = len(steps) // 4
    for name in sorted(name for name in steps[-1] if name.startswith("rss_mb/")):
        early = statistics.median(line[name] for line in steps[quarter : 2 * quarter] if name in line)
        late = statistics.median(line[name] for line in steps[-quarter:] if name in line)
        print(f"  {name:<24} {early:.0f} MB → {late:.0f} MB (second quarter → last)")


def main() -> None:
    """Run all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--algo", choices=["grpo", "ppo"], default="grpo")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            one(seed, arguments.algo, arguments.overrides, Path(folder))


if __name__ == "__main__":
    main()
