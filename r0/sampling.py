"""Builds sample requests from tasks, and groups of completions from the results; derives the seed of each sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from r0.records import (
    SPREAD_TOLERANCE,
    Prompt,
    Rollout,
    Sampled,
    SampleRequest,
    Scored,
    Task,
    TrainCompletion,
    TrainGroup,
)


def sample_seed(run_seed: int, step: int, task_id: int, sample: int, refill_round: int = 0) -> int:
    """The seed of one sample, in [0, 2^63): a hash of its address, so repeating the work of a failed worker gives the same
    samples.
    """
    address = f"{run_seed}/{step}/{refill_round}/{task_id}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "big") >> 1


def requests(
    tasks: Sequence[Task], prompts: Sequence[Prompt], samples: int, run_seed: int, step: int, refill_round: int = 0
) -> list[SampleRequest]:
    """``samples`` requests for each prompt; the requests of one prompt are adjacent."""
    return [
        SampleRequest(prompt.token_ids, sample_seed(run_seed, step, task.task_id, sample, refill_round))
        for task, prompt in zip(tasks, prompts, strict=True)
        for sample in range(samples)
    ]


def rollouts(
    tasks: Sequence[Task], prompts: Sequence[Prompt], sampled: Sequence[Sampled], samples: int, first_group: int = 0
) -> list[Rollout]:
    """The results, each with its task and group."""
    return [
        Rollout(tasks[i // samples], first_group + i // samples, i % samples, prompts[i // samples], one)
        for i, one in enumerate(sampled)
    ]


def train_groups(scored: Sequence[Scored]) -> list[TrainGroup]:
    """Scored completions in the learner's format: one ``TrainGroup`` per prompt, in group order, without masked completions."""
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
                if not one.masked
            ),
        )
        for _, group in sorted(by_group.items())
    ]


def spread_groups(scored: Sequence[Scored], tolerance: float = SPREAD_TOLERANCE) -> set[int]:
    """The groups whose rewards are not all equal, without masked completions. All others have group-relative advantages of
    zero."""
    low: dict[int, float] = {}
    high: dict[int, float] = {}
    for one in scored:
        if one.masked:
            continue
        group = one.rollout.group
        low[group] = min(low.get(group, one.total), one.total)
        high[group] = max(high.get(group, one.total), one.total)
    return {group for group in low if high[group] - low[group] > tolerance}
