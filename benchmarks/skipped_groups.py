"""Seconds of a GRPO update that skips the groups without spread, against one that computes every group; paired medians.

    python benchmarks/skipped_groups.py                                  # 2 CPU cores, a model of 3.7 M parameters
    python benchmarks/skipped_groups.py --device cuda --shape 1.5b       # random weights, as in learner.py

One group without spread is always computed, for the figures that need log-probabilities, so that a share s of such groups leaves
1 − s + 1/groups of the work. Prompts and completions have unlike lengths.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace

from learner import SHAPES, device_name, make_groups, make_model, timed

from r0.actors.learner.idle import skip_idle
from r0.actors.learner.worker import Learner
from r0.config import StageAConfig
from r0.records import TrainGroup


def without_spread(groups: list[TrainGroup], share: float) -> list[TrainGroup]:
    """The groups, with equal rewards in the given share of them."""
    count = round(share * len(groups))
    equal = [replace(group, completions=tuple(replace(one, reward=1.0) for one in group.completions)) for group in groups[:count]]
    return equal + groups[count:]


def measure(learner: Learner, config: StageAConfig, groups: list[TrainGroup], repeats: int) -> tuple[float, float, float]:
    """Median seconds of an update with every group and of one without those that have no spread, and the median ratio of the two,
    which are taken in turn."""
    batches = {"all": groups, "needed": skip_idle(groups, config, step=0)}
    times: dict[str, list[float]] = {name: [] for name in batches}
    for repeat in range(repeats + 1):
        for name, batch in batches.items():
            seconds = timed(learner, batch)
            if repeat:  # the first is warm-up
                times[name].append(seconds)
    ratios = [every / needed for every, needed in zip(times["all"], times["needed"], strict=True)]
    return statistics.median(times["all"]), statistics.median(times["needed"]), statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", type=device_name, default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--shape", choices=tuple(SHAPES))
    parser.add_argument("--groups", type=int, default=20, help="groups an update")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens at most")
    parser.add_argument("--completion", type=int, default=32, help="completion tokens at most")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.8], help="shares of groups without spread")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    cuda = args.device != "cpu"
    shape = args.shape or ("1.5b" if cuda else "3.7m")
    config = StageAConfig(algo="grpo", batch_size=args.groups, gradient_checkpointing=cuda, learner={"cpus": float(args.threads)})
    with tempfile.TemporaryDirectory() as folder:
        make_model(shape, folder, args.device)
        learner = Learner(config, folder, 1000, device=args.device)
    vocab = learner.networks.policy.module.model.config.vocab_size
    groups = make_groups(args.groups, args.prompt, args.completion, args.generations, vocab, ragged=True)
    print(f"{shape}, {args.device}: {args.groups} groups of {args.generations}, P ≤ {args.prompt}, C ≤ {args.completion}")
    for share in args.shares:
        every, needed, ratio = measure(learner, config, without_spread(groups, share), args.repeats)
        print(f"{share:.0%} without spread: all {every:.3f} s, needed {needed:.3f} s, {ratio:.2f}x", flush=True)


if __name__ == "__main__":
    main()
