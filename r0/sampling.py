"""Builds sample requests from tasks, and the groups that the learner gets from scored ones; derives the seed of each sample."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from r0.process.objects import fetch, put
from r0.records import (
    SPREAD_TOLERANCE,
    Completions,
    Prompt,
    Rollout,
    SampleRequest,
    Score,
    Scored,
    ScoredGroup,
    Task,
    UnreadGroup,
)


def sample_seed(run_seed: int, step: int, task_id: int, sample: int, refill_round: int = 0) -> int:
    """The seed of one sample, in [0, 2^63): a hash of its address, so repeating the work of a failed worker gives the same
    samples.
    """
    address = f"{run_seed}/{step}/{refill_round}/{task_id}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "big") >> 1


def requests(
    tasks: Sequence[Task], prompts: Sequence[Prompt], samples: int, run_seed: int, step: int, refill_round: int = 0
) -> list[list[SampleRequest]]:
    """``samples`` requests for each prompt. A task that comes again goes on with the numbers of its samples, so that no two of
    them are the same."""
    made: list[list[SampleRequest]] = []
    sampled: Counter[int] = Counter()  # of each task so far
    for task, prompt in zip(tasks, prompts, strict=True):
        start = sampled[task.task_id]
        sampled[task.task_id] += samples
        seeds = [sample_seed(run_seed, step, task.task_id, start + sample, refill_round) for sample in range(samples)]
        made.append([SampleRequest(prompt.token_ids, seed) for seed in seeds])
    return made


def train_groups(groups: Sequence[ScoredGroup]) -> list[UnreadGroup]:
    """Scored groups in the learner's format, without masked completions."""
    found = []
    for group in groups:
        samples = tuple(i for i, score in enumerate(group.scores) if not score.masked)
        scores = tuple(group.scores[i] for i in samples)
        found.append(UnreadGroup(group.prompt.token_ids, group.completions, samples, scores))
    return found


def has_spread(group: ScoredGroup, tolerance: float = SPREAD_TOLERANCE) -> bool:
    """Whether the rewards of a group are not all equal, without masked completions. Else its group-relative advantages are
    zero."""
    totals = [score.total for score in group.scores if not score.masked]
    return bool(totals) and max(totals) - min(totals) > tolerance


def whole(groups: Iterable[ScoredGroup]) -> Iterator[Scored]:
    """Every rollout of some groups with its tokens and text; those of one group are in memory at a time.

    Raises:
        ObjectsLost: the machine that held them is gone.
    """
    for group in groups:
        completions, texts = fetch([group.completions, group.texts])
        for sample, (sampled, text, score) in enumerate(zip(completions.sampled(), texts, group.scores, strict=True)):
            rollout = Rollout(group.task, group.group, sample, group.prompt, sampled)
            yield Scored(rollout, text, score.verdict, score.components, score.total, score.masked)


def grouped(scored: Iterable[Scored]) -> list[ScoredGroup]:
    """Rollouts as ``whole`` gives them, in groups again; their tokens and texts get an address group by group."""
    found = []
    for number, members in groupby(scored, key=lambda one: one.rollout.group):
        some = list(members)
        first, sampled = some[0].rollout, [one.rollout.sampled for one in some]
        scores = tuple(Score.of(one.rollout.sampled, one.verdict, one.components, one.total, one.masked) for one in some)
        texts = put(tuple(one.text for one in some))
        found.append(ScoredGroup(first.task, number, first.prompt, scores, put(Completions.of(sampled)), texts))
    return found
