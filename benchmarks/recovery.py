"""How long a run takes to recover from a rollout worker or a learner rank that is killed.

    python benchmarks/recovery.py              # two engines (vLLM), two learner ranks, r0-tiny, three rounds

Baseline: the same run undisturbed. Each round makes the run three times: undisturbed, with a rollout worker killed while it
samples, and with a learner rank killed before it applies an update. A recovery takes the seconds by which the run is longer:
the start of the new processes, the weights that they are given and the work that is repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FAULTS = {"undisturbed": "", "rollout worker killed": "rollout.sample@4=kill", "learner rank killed": "learner.step@4=kill"}


def run(output: Path, engine: str, fault: str) -> float:
    """Seconds of a run with ``fault`` in it.

    Raises:
        SystemExit: it ends with an error, or the fault did not happen.
    """
    settings = {
        "model": "r0-tiny", "output": output, "algo": "grpo", "grpo.num_generations": 4, "kl_coef": 0.0, "batch_size": 4,
        "max_steps": 6, "max_new_tokens": 64, "eval.every": 0, "checkpoint.every": 1, "rollout.engine": engine,
        "rollout.workers": 2, "learner.ranks": 2,
    }  # fmt: skip
    command = [sys.executable, "-m", "r0.launch", "stage_a", *(f"{key}={value}" for key, value in settings.items())]
    fired = output.parent / f"{output.name}.fired"
    variables = {"R0_FAULT": f"{fault} {fired}"} if fault else {}
    began = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", **variables}, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode or fired.exists() != bool(fault):
        raise SystemExit(f"{output.name}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds


def step_seconds(output: Path) -> float:
    """Median over a run's steps, without the first."""
    lines = [json.loads(line) for line in (output / "timings.jsonl").read_text().splitlines()]
    return statistics.median([line["total"] for line in lines if "total" in line][1:])


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in FAULTS}
    steps, bytes_of = [], set()
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            for name, fault in FAULTS.items():
                output = Path(folder) / f"{turn}-{name.replace(' ', '-')}"
                seconds[name].append(run(output, options.engine, fault))
                bytes_of.add((output / "metrics.jsonl").read_bytes())
            steps.append(step_seconds(Path(folder) / f"{turn}-undisturbed"))
    base = seconds.pop("undisturbed")
    print(f"a step: {statistics.median(steps):.2f} s; the undisturbed run: {statistics.median(base):.1f} s")
    for name, found in seconds.items():
        longer = [one - undisturbed for one, undisturbed in zip(found, base, strict=True)]
        print(f"{name}: {statistics.median(longer):.1f} s longer ({', '.join(f'{one:.1f}' for one in longer)})")
    print(f"records of all runs are equal: {'yes' if len(bytes_of) == 1 else 'no'}")


if __name__ == "__main__":
    main()
