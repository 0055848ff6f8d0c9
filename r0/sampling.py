"""Tasks to sample requests and back: addresses, seeds, groups."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from r0.records import Prompt, Rollout, Sampled, SampleRequest, Scored, Task, TrainCompletion, TrainGroup


def sample_seed(run_seed: int, step: int, task_id: int, sample: int, refill_round: int = 0) -> int:
    """The seed of one sample, a hash of its address: a killed and repeated worker changes nothing. In [0, 2^63)."""
    address = f"{run_seed}/{step}/{refill_round}/{task_id}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "big") >> 1


def requests(
    tasks: Sequence[Task], prompts: Sequence[Prompt], samples: int, run_seed: int, step: int, refill_round: int = 0
) -> list[SampleRequest]:
    """``samples`` requests for each prompt, the requests of a prompt side by side."""
    return [
        SampleRequest(prompt.token_ids, sample_seed(run_seed, step, task.task_id, sample, refill_round))
        for task, prompt in zip(tasks, prompts, strict=True)
        for sample in range(samples)
    ]


def rollouts(
    tasks: Sequence[Task], prompts: Sequence[Prompt], sampled: Sequence[Sampled], samples: int, first_group: int = 0
) -> list[Rollout]:
    """What came back, with the task and the group of each completion."""
    return [
        Rollout(tasks[i // samples], first_group + i // samples, i % samples, prompts[i // samples], one)
        for i, one in enumerate(sampled)
    ]


def train_groups(scored: Sequence[Scored]) -> list[TrainGroup]:
    """Scored completions as the learner takes them: one ``TrainGroup`` a prompt, in the order of the groups."""
    by_group: dict[int, list[Scored]] = {}
    for one in scored:
        by_group.setdefault(one.rollout.group, []).append(one)
    return [
        TrainGroup(
            prompt_ids=group[0].rollout.prompt.token_ids,
            completions=tuple(
                TrainCompletion(
                    one.rollout.sampled.token_ids, one.rollout.sampled.logprobs, one.total, one.rollout.sampled.version
                )
                for one in group
            ),
        )
        for _, group in sorted(by_group.items())
    ]


def spread_groups(scored: Sequence[Scored], tolerance: float = 1e-9) -> set[int]:
    """The groups whose rewards are not all equal; the others teach a group-relative advantage nothing."""
    low: dict[int, float] = {}
    high: dict[int, float] = {}
    for one in scored:
        group = one.rollout.group
        low[group] = min(low.get(group, one.total), one.total)
        high[group] = max(high.get(group, one.total), one.total)
    return {group for group in low if high[group] - low[group] > tolerance}
