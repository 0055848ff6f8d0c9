"""Rollouts one by one, for tests of code that works on groups of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from r0.actors.reward.group import RewardGroup, SampledGroup
from r0.actors.reward.worker import Failed, RewardWorker
from r0.records import Completions, Rollout, Score, Scored, ScoredGroup
from r0.sampling import whole


def score(rewards: RewardGroup, rollouts: Iterable[Rollout]) -> list[Scored]:
    """The rollouts scored, in order; adjacent ones of the same group belong together."""
    return list(whole(scored_groups(rewards, rollouts)))


def scored_groups(rewards: RewardGroup, rollouts: Iterable[Rollout]) -> list[ScoredGroup]:
    """The same, with their addresses."""
    batch = rewards.batch()
    for place, (_, members) in enumerate(groupby(rollouts, key=lambda one: one.group)):
        some = list(members)
        completions = Completions.of([one.sampled for one in some])
        batch.add(SampledGroup(some[0].task, place, some[0].prompt, len(some), completions))
    return batch.finish()


def outcome(worker: RewardWorker, one: Rollout) -> tuple[Score | Failed, str]:
    """What a worker says of a rollout, and its text."""
    (found,), (text,) = worker.score(one.task, one.prompt, Completions.of([one.sampled]))
    return found, text


def float32(values: Sequence[float]) -> tuple[float, ...]:
    """The numbers as engines give them."""
    import array

    return tuple(array.array("f", values))
