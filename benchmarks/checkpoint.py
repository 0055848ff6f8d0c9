"""How long training waits for a checkpoint: copying the state and writing in the background, against writing at once.

    python benchmarks/checkpoint.py            # a state of 500 MB, five rounds

Baseline: the same state written and flushed before training goes on. Each round times both, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from r0.actors.learner.state_file import State, write_state
from r0.storage.manifest import entry


def make_state(megabytes: int) -> State:
    """Weights and two moments of AdamW in float32."""
    size = megabytes * 1_000_000 // 12
    return {name: [torch.randn(size // 10) for _ in range(10)] for name in ("masters", "exp_avg", "exp_avg_sq")}


def copied(state: State) -> State:
    """What ``save`` does while training waits."""
    return {name: [tensor.to("cpu", copy=True) for tensor in tensors] for name, tensors in state.items()}


def written(path: Path, state: State) -> float:
    """Seconds to write, flush and hash the state."""
    began = time.perf_counter()
    write_state(path, state)
    entry(path)
    return time.perf_counter() - began


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: the temporary folder")
    options = parser.parse_args()
    state = make_state(options.megabytes)
    before, after, ratios = [], [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, ThreadPoolExecutor(1) as writer:
        for _ in range(options.rounds):
            before.append(written(Path(folder) / "state.safetensors", copied(state)))
            began = time.perf_counter()
            writing = writer.submit(written, Path(folder) / "state.safetensors", copied(state))
            after.append(time.perf_counter() - began)
            writing.result()
            ratios.append(before[-1] / after[-1])
    print(f"written at once:        {statistics.median(before):.3f} s")
    print(f"copied, then written:   {statistics.median(after):.3f} s of waiting")
    print(f"ratio (median of {options.rounds}): {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
