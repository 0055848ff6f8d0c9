"""Distributes a batch over ranks and mini-batches; a deterministic function of seed and step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from r0.actors.learner.batch import Schedule
from r0.records import Group


@dataclass(frozen=True, slots=True)
class Share:
    """The groups of a rank, their places in the batch, and their mini-batches."""

    groups: list[Group]
    places: list[int]
    schedule: Schedule


def cost(group: Group) -> int:
    """Number of tokens that the learner computes for a group; 0 without completions."""
    return len(group.prompt_ids) + sum(group.lengths) if group.lengths else 0


def assign_groups(groups: Sequence[Group], ranks: int, epochs: int, mini_batches: int, seed: int, step: int) -> list[Share]:
    """The shares of all ranks.

    In every epoch the batch is shuffled and split into ``mini_batches`` mini-batches of similar size, independently of the number
    of ranks. In the first epoch the groups of each mini-batch are assigned to ranks, longest group first, to the rank with the
    fewest tokens so far. A group stays on its rank for all epochs, because its old log-probabilities and values are stored there.
    """
    rank_of: dict[int, int] = {}
    plan: list[list[list[int]]] = []
    for epoch in range(epochs):
        order = list(range(len(groups)))
        random.Random(f"{seed}/{step}/{epoch}").shuffle(order)
        plan.append([sorted(order[i::mini_batches]) for i in range(mini_batches)])
        if epoch == 0:
            for mini in plan[0]:
                rank_of |= _by_tokens(groups, mini, ranks)
    mine = [[i for i in range(len(groups)) if rank_of[i] == rank] for rank in range(ranks)]
    shares = []
    for rank, members in enumerate(mine):
        place = {group: i for i, group in enumerate(members)}
        schedule = [[[place[i] for i in mini if rank_of[i] == rank] for mini in minis] for minis in plan]
        shares.append(Share([groups[i] for i in members], members, schedule))
    return shares


def _by_tokens(groups: Sequence[Group], members: Sequence[int], ranks: int) -> dict[int, int]:
    loads = [0] * ranks
    rank_of = {}
    for i in sorted(members, key=lambda i: (-cost(groups[i]), i)):
        rank = loads.index(min(loads))
        rank_of[i] = rank
        loads[rank] += cost(groups[i])
    return rank_of


def even_schedule(count: int, epochs: int, mini_batches: int) -> Schedule:
    """``count`` groups in order, distributed evenly over the mini-batches of every epoch."""
    return [[list(range(i, count, mini_batches)) for i in range(mini_batches)] for _ in range(epochs)]
