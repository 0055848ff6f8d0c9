"""Idle groups: those whose advantages are all zero, which the learner need not compute."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from r0.algos.advantages import zero_spread
from r0.config import GRPOSection, RLConfig
from r0.records import Group, TrainGroup

OF_THE_GROUP = ("grpo", "dr_grpo", "rloo")  # advantages that are exactly 0 in a group without spread


def skip_idle(groups: Sequence[Group], config: RLConfig, step: int) -> list[Group]:
    """The batch with idle groups emptied; their tokens and completions are still counted in the denominators, so the gradient is
    that of the whole batch.

    One idle group, drawn by seed and step, is kept: figures such as the gap of log-probabilities then come from groups with and
    without spread, and exist if no group has one. A KL of the loss or of the reward, PPO, and advantages that are normalized over
    the batch need every group.
    """
    section = config.section
    if not isinstance(section, GRPOSection) or section.advantage not in OF_THE_GROUP or config.kl_coef > 0:
        return list(groups)
    members = [(g, reward) for g, group in enumerate(groups) for reward in group.rewards]
    reward_N = torch.tensor([reward for _, reward in members], dtype=torch.float32)  # as in make_batch, to agree on what is equal
    equal_G = zero_spread(reward_N, torch.tensor([g for g, _ in members], dtype=torch.long)).tolist()
    idle = [g for g, equal in zip(sorted({g for g, _ in members}), equal_G, strict=True) if equal]
    kept = random.Random(f"{config.seed}/{step}/idle").choice(idle) if idle else None
    return [_emptied(group) if g in idle and g != kept else group for g, group in enumerate(groups)]


def _emptied(group: Group) -> TrainGroup:
    return TrainGroup(group.prompt_ids, (), sum(group.lengths), len(group.lengths))
