"""A learner and an engine in two processes on one card, on Ray, through r0's own roles: what a weight sync does to the gap.

The gap is the mean difference in nats between the engine's log-probabilities and the learner's, as of every step of a run.
"""

from __future__ import annotations

import random
from dataclasses import replace

from benchmarks.gpu_check_parts.claims import Report
from benchmarks.gpu_check_parts.setting import Setting
from r0.actors.cluster import start_ray
from r0.actors.roles import Roles, on_ray
from r0.config import StageAConfig
from r0.process.objects import fetch
from r0.records import SampleRequest, Score, UnreadGroup, Verdict

PROMPTS, GENERATIONS, TOKENS = 8, 4, 32
SHARE = {"learner": {"gpus": 0.5}, "rollout": {"gpus": 0.5, "enforce_eager": True}}
STALE = 3.0  # times as large as after the sync must the gap be that a sync has to mend


def weights(setting: Setting, report: Report) -> None:
    """Sample, learn with a high rate, sync, sample. The second batch is sampled before the learning and shown to the learner
    after it as if it were new: its gap is what the sync has to mend."""
    import ray

    model = setting.random_model(setting.run_shape)
    sections = SHARE if setting.cuda else {"rollout": {"kv_cache_gib": 0.25}}
    base = {"model": model, "algo": "grpo", "grpo": {"num_generations": GENERATIONS}, "learning_rate": 1e-3}
    config = StageAConfig.model_validate({**base, "max_prompt_tokens": 128, "max_new_tokens": TOKENS, **sections})
    roles = on_ray(config, model, 3, start_ray(config))
    try:
        roles.connect()
        roles.sync(version=0)
        first, second = sample(roles, 0), sample(roles, 1)
        before = roles.learn(first, 0)["gap"]
        stale = roles.learn([_as_new(group, 1) for group in second], 1)["gap"]
        roles.sync(version=2)
        after = roles.learn(sample(roles, 2), 2)["gap"]
    finally:
        roles.close()
        ray.shutdown()
    backend = roles.engine.transfer
    note = f"by {backend}: {before:.4f} at the start, {stale:.4f} after two updates without a sync, {after:.4f} after the sync"
    held = max(before, after) <= config.sync.gap_warn and stale >= STALE * after
    report.claim("gap", held, note, backend=backend, before=before, stale=stale, after=after)
    if setting.cuda:
        report.claim("backend", backend == "ipc", backend)
    else:
        report.skip("backend", f"on a CPU weights go by {backend}")


def sample(roles: Roles, seed: int) -> list[UnreadGroup]:
    """Groups that the engine samples for random prompts of unlike length, with random rewards."""
    draw = random.Random(seed)
    prompts = [tuple(draw.randrange(3, 1000) for _ in range(draw.randint(20, 100))) for _ in range(PROMPTS)]
    requests = [[SampleRequest(prompt, draw.getrandbits(31)) for _ in range(GENERATIONS)] for prompt in prompts]
    found = dict(roles.rollout.stream(requests, roles.config.temperature, TOKENS))
    samples, groups = tuple(range(GENERATIONS)), []
    for g, prompt in enumerate(prompts):
        (completions,) = fetch([found[g]])
        scores = tuple(Score.of(one, Verdict(None, 0, False), {}, draw.random()) for one in completions.sampled())
        groups.append(UnreadGroup(prompt, found[g], samples, scores))
    return groups


def _as_new(group: UnreadGroup, version: int) -> UnreadGroup:
    return replace(group, scores=tuple(replace(each, version=version) for each in group.scores))
