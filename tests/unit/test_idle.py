"""Groups without spread are emptied where nothing else needs them, and stay in the denominators."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from learner_models import random_groups

from r0.actors.learner.batch import make_batch, make_minibatches
from r0.actors.learner.comm import Comm
from r0.actors.learner.idle import skip_idle
from r0.actors.learner.shares import assign_groups, cost
from r0.config import StageAConfig
from r0.records import TrainGroup


def batch(*rewards: float | None) -> list[TrainGroup]:
    """Groups of three completions whose rewards are all the given one; None: of unlike rewards."""
    groups = random_groups([(4 + i, [3, 5, 2 + i]) for i in range(len(rewards))])
    return [group if reward is None else equal(group, reward) for group, reward in zip(groups, rewards, strict=True)]


def equal(group: TrainGroup, reward: float) -> TrainGroup:
    return replace(group, completions=tuple(replace(one, reward=reward) for one in group.completions))


def config(**keys) -> StageAConfig:
    return StageAConfig(**{"algo": "grpo", **keys})


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo"])
def test_all_groups_without_spread_but_one_are_emptied(advantage):
    groups, made = batch(1.2, None, 1.2, 0.3, None), config(grpo={"advantage": advantage})
    kept = set()
    for step in range(20):
        found = skip_idle(groups, made, step)
        assert found == skip_idle(groups, made, step)
        assert [found[i] for i in (1, 4)] == [groups[1], groups[4]]
        (alive,) = [i for i in (0, 2, 3) if found[i] == groups[i]]
        kept.add(alive)
        for i in {0, 2, 3} - {alive}:
            assert found[i] == TrainGroup(groups[i].prompt_ids, (), 10 + i, 3)
            assert cost(found[i]) == 0
    assert kept == {0, 2, 3}  # drawn, not always the same one


def test_the_only_group_without_spread_is_kept():
    assert skip_idle(groups := batch(None, 0.7), config(), 0) == groups
    assert skip_idle(groups := batch(None, None), config(), 0) == groups


@pytest.mark.parametrize(
    "keys",
    [
        {"algo": "ppo"},
        {"kl_coef": 0.01},
        {"kl_coef": 0.01, "grpo": {"kl_in": "reward"}},
        {"grpo": {"advantage": "reinforce_pp"}},
        {"grpo": {"advantage": "reinforce_pp_completions"}},
    ],
)
def test_every_group_is_computed_where_another_term_needs_it(keys):
    assert skip_idle(groups := batch(0.5, 0.5, None, 0.5), config(**keys), 0) == groups


def test_groups_without_completions_are_neither_idle_nor_kept():
    groups = batch(0.5, None)
    empty = TrainGroup((1, 2), ())
    assert skip_idle([empty, *groups, empty], config(), 0) == [empty, *groups, empty]
    assert skip_idle([empty, empty], config(), 0) == [empty, empty]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_mini_batches_and_their_denominators_are_those_of_the_whole_batch(ranks):
    groups = batch(None, 0.4, 0.4, None, 0.4, 0.4, None, 0.4)
    found = []
    for given in (groups, skip_idle(groups, config(), 3)):
        shares, totals = assign_groups(given, ranks, 2, 4, seed=1, step=3), []
        for share in shares:
            made = make_batch(share.groups, 0, 0, torch.device("cpu"))
            plan = make_minibatches(made, share.schedule, True, 40, Comm(1, torch.device("cpu")))
            assert all(mini.slices for minis in plan for mini in minis)
            totals.append([(mini.tokens, mini.completions) for minis in plan for mini in minis])
        found.append(torch.tensor(totals).sum(0))
    assert torch.equal(*found)


def test_ranks_are_balanced_by_the_groups_that_are_computed():
    groups = batch(*[None, 0.4] * 8)
    needed = skip_idle(groups, config(), 0)
    loads = [sum(map(cost, share.groups)) for share in assign_groups(needed, 2, 1, 1, seed=0, step=0)]
    assert max(loads) - min(loads) <= max(map(cost, needed))
