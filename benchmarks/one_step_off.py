"""The demo with sampling one step ahead (``sync.max_staleness=1``) against the demo that samples and learns in turns: seconds a
step and the held-out reward at the end, seed by seed.

    python benchmarks/one_step_off.py [--seeds 42 43 44] [--baseline FOLDER] [key=value …]

Learner and engine have one core each. ``--baseline`` runs the other side from another checkout of r0, such as an older one. The
seconds are medians of ``total`` in ``timings.jsonl``, without the first five steps; the two sides run in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WARM_UP = 5  # steps
REWARD = "heldout/sampled/reward"


def demo(seed: int, checkout: Path, output: Path, settings: list[str]) -> tuple[float, float]:
    """Run the demo once; its median seconds a step, and the last held-out reward."""
    command = [sys.executable, "-m", "r0.launch", "demo", f"seed={seed}", f"output={output}", *settings]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=checkout)
    if finished.returncode:
        raise SystemExit(f"the demo failed:\n{finished.stdout[-3000:]}\n{finished.stderr[-3000:]}")
    timings, metrics = (
        [json.loads(line) for line in (output / name).read_text().splitlines()] for name in ("timings.jsonl", "metrics.jsonl")
    )
    seconds = [line["total"] for line in timings if "total" in line][WARM_UP:]
    return statistics.median(seconds), [line[REWARD] for line in metrics if REWARD in line][-1]


def main() -> None:
    """Run all seeds and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--baseline", type=Path, default=Path(__file__).parents[1], help="a checkout of r0 for the other side")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    ratios = []
    print(f"{'seed':>4}  {'in turns s/step':>15}  {'ahead s/step':>12}  {'ratio':>5}  {'reward in turns':>15}  {'ahead':>6}")
    with tempfile.TemporaryDirectory() as scratch:
        for seed in arguments.seeds:
            turns, before = demo(seed, arguments.baseline, Path(scratch) / f"turns-{seed}", arguments.overrides)
            own = ["sync.max_staleness=1", *arguments.overrides]
            ahead, after = demo(seed, Path(__file__).parents[1], Path(scratch) / f"ahead-{seed}", own)
            ratios.append(ahead / turns)
            print(f"{seed:>4}  {turns:>15.2f}  {ahead:>12.2f}  {ratios[-1]:>5.2f}  {before:>15.3f}  {after:>6.3f}", flush=True)
    print(f"median ratio: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
