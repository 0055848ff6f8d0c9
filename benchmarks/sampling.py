"""Sampling as r0 does it, against the same vLLM engines called directly with the same requests.

    python benchmarks/sampling.py [--engines 1] [--pairs 5] [--prompts 32] [--prompt 512]

Each engine is a Ray actor with one thread; prompts × 8 completions of up to 128 tokens, float32, the model of grpo_step.py.
r0's side is ``RolloutGroup.stream``: it distributes the groups, and gets the address of each group's completions as soon as
they are complete. The direct side calls ``LLM.generate`` in the same actors with the same shares and parameters, all at once,
and returns the number of tokens. The sides take turns; vLLM's prefix cache is emptied before each. Printed: tokens a second,
and their ratio pair by pair.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from grpo_step import build_model

from r0.actors.pool import Pool
from r0.actors.rollout.group import RolloutGroup, assign_groups
from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.worker import RolloutWorker
from r0.process.environment import prepare_environment
from r0.process.objects import fetch
from r0.records import SampleRequest

GENERATIONS, COMPLETION_TOKENS = 8, 128
Groups = list[list[SampleRequest]]


class Worker(RolloutWorker):
    """A rollout worker whose engine can be called directly too."""

    def direct(self, groups: Groups) -> int:
        """Complete all requests with one call of ``LLM.generate``; the number of sampled tokens."""
        requests = [one for group in groups for one in group]
        parameters = [self._engine._parameters(one, 1.0, COMPLETION_TOKENS, False) for one in requests]
        prompts = [{"prompt_token_ids": list(one.prompt_ids)} for one in requests]
        found = self._engine._llm.generate(prompts, parameters, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in found)

    def forget(self) -> None:
        """Empty the prefix cache."""
        self._engine._llm.reset_prefix_cache()


def made_groups(count: int, prompt_tokens: int, vocabulary: int) -> Groups:
    """Prompts of arbitrary tokens that differ from the first one on."""
    tokens = cycle(range(100, vocabulary))
    prompts = [tuple(next(tokens) for _ in range(prompt_tokens)) for _ in range(count)]
    return [[SampleRequest(prompt, seed=GENERATIONS * n + i) for i in range(GENERATIONS)] for n, prompt in enumerate(prompts)]


def by_r0(group: RolloutGroup, groups: Groups) -> tuple[float, int]:
    """Seconds and tokens of r0's side. The tokens are counted afterwards, as the driver of a run does not have them."""
    began = time.perf_counter()
    addresses = [address for _, address in group.stream(groups, 1.0, COMPLETION_TOKENS)]
    took = time.perf_counter() - began
    return took, sum(len(one.token_ids) for each in addresses for one in fetch([each])[0].sampled())


def directly(workers: Sequence, groups: Groups) -> tuple[float, int]:
    """Seconds and tokens of the direct side."""
    import ray

    shares = assign_groups(groups, len(workers), COMPLETION_TOKENS)
    began = time.perf_counter()
    asked = [worker.direct.remote([groups[i] for i in share]) for worker, share in zip(workers, shares, strict=True)]
    tokens = sum(ray.get(asked))
    return time.perf_counter() - began, tokens


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    chosen = parser.parse_args()
    prepare_environment()
    import ray

    here = str(Path(__file__).parent)
    variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": here, "TQDM_DISABLE": "1"}
    ray.init(address="local", num_cpus=chosen.engines, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder))
        settings = EngineSettings(folder, chosen.prompt + COMPLETION_TOKENS, dtype="fp32", max_num_seqs=64, kv_cache_gib=0.5)
        actor = ray.remote(Worker).options(num_cpus=1, runtime_env={"env_vars": variables})
        pool = Pool("rollout", lambda index: actor.remote(settings, index), chosen.engines)
        group = RolloutGroup(pool, 1800.0)
        groups = made_groups(chosen.prompts, chosen.prompt, 400)
        speeds: list[tuple[float, float]] = []
        print(f"{'pair':>4}  {'direct tokens/s':>15}  {'r0 tokens/s':>11}  {'ratio':>5}")
        for pair in range(chosen.pairs + 1):  # the first one warms up
            measured = []
            for side in ("direct", "r0"):
                ray.get([worker.forget.remote() for worker in pool.workers])
                measured.append(by_r0(group, groups) if side == "r0" else directly(pool.workers, groups))
            (direct_s, expected), (r0_s, tokens) = measured
            if tokens != expected:
                raise SystemExit(f"r0 sampled {tokens} tokens, vLLM {expected}")
            if pair:
                speeds.append((tokens / direct_s, tokens / r0_s))
                theirs, ours = speeds[-1]
                print(f"{pair:>4}  {theirs:>15.0f}  {ours:>11.0f}  {ours / theirs:>5.2f}", flush=True)
        ray.shutdown()
    print(f"median ratio: {statistics.median(ours / theirs for theirs, ours in speeds):.2f}")


if __name__ == "__main__":
    main()
