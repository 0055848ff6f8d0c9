"""Advantages against plain Python over lists of groups, in float64."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch
from algos_ragged import SEEDS, close
from hypothesis import given, settings
from hypothesis import strategies as st

from r0.algos.advantages import ADVANTAGES, dr_grpo, grpo, reinforce_pp, rloo, zero_spread
from r0.errors import UserError


def batch(seed: int) -> tuple[list[float], list[int], dict[int, list[int]]]:
    """Rewards, group numbers (sparse, shuffled) and the positions of each group."""
    rng = random.Random(seed)
    numbers = rng.sample(range(1000), rng.randint(1, 5))
    group = [number for number in numbers for _ in range(rng.randint(1, 6))]
    rng.shuffle(group)
    reward = [rng.choice([1.2, 0.7, -0.8, rng.gauss(0, 2)]) for _ in group]
    return reward, group, {number: [i for i, g in enumerate(group) if g == number] for number in numbers}


def by_group(seed: int, rule) -> list[float]:
    reward, group, members = batch(seed)
    want = [0.0] * len(group)
    for positions in members.values():
        rewards = [reward[i] for i in positions]
        for i in positions:
            want[i] = rule(reward[i], rewards)
    return want


def grpo_rule(r: float, rewards: list[float]) -> float:
    spread = max(rewards) - min(rewards)
    return 0.0 if spread == 0 else (r - statistics.fmean(rewards)) / (statistics.stdev(rewards) + 1e-4)


def rloo_rule(r: float, rewards: list[float]) -> float:
    others = list(rewards)
    others.remove(r)
    return r - statistics.fmean(others) if others else 0.0


RULES = {"grpo": grpo_rule, "dr_grpo": lambda r, rewards: r - statistics.fmean(rewards), "rloo": rloo_rule}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sorted(RULES))
def test_advantages_within_groups_equal_the_loops(name, seed):
    reward, group, _ = batch(seed)
    got = ADVANTAGES[name](torch.tensor(reward, dtype=torch.float64), torch.tensor(group), lambda x: x)
    close(got, by_group(seed, RULES[name]))


@pytest.mark.parametrize("seed", SEEDS)
def test_reinforce_pp_equals_the_loop(seed):
    reward, group, _ = batch(seed)
    mean = statistics.fmean(reward)
    want = [(r - mean) / math.sqrt(statistics.pvariance(reward) + 1e-8) for r in reward]
    close(reinforce_pp(torch.tensor(reward, dtype=torch.float64), torch.tensor(group)), want, 1e-8)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_ranks_with_their_own_groups_get_the_advantages_of_the_whole_batch(name):
    reward_N = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    group_N = torch.arange(24) // 4
    whole = ADVANTAGES[name](reward_N, group_N, lambda x: x)
    parts = [slice(0, 4), slice(4, 20), slice(20, 24)]
    sums = [torch.stack([x.new_tensor(len(x)), x.sum(), x.square().sum()]) for x in (reward_N[p] for p in parts)]
    total = torch.stack(sums).sum(0)
    split = [ADVANTAGES[name](reward_N[p], group_N[p], lambda mine: total) for p in parts]
    close(torch.cat(split), whole)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_zero_and_never_amplified_rounding(name, dtype):
    reward_N = torch.full((21,), 0.1, dtype=dtype) * 3 - 1.2
    advantage_N = ADVANTAGES[name](reward_N, torch.arange(21) // 7, lambda x: x)
    assert advantage_N.dtype == dtype
    assert advantage_N.abs().max() < 1e-9


def test_rewards_equal_but_for_rounding_are_equal():
    reward_N = torch.tensor([0.7, 0.7 + 1e-7, 1.2, 0.7], dtype=torch.float64)
    group_N = torch.tensor([5, 5, 2, 2])
    assert zero_spread(reward_N, group_N).tolist() == [False, True]  # groups 2, 5
    assert grpo(reward_N, group_N)[:2].tolist() == [0.0, 0.0]
    assert zero_spread(reward_N, group_N, tolerance=0.0).tolist() == [False, False]


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_groups_of_one_and_a_batch_of_one_are_finite(name):
    assert ADVANTAGES[name](torch.tensor([1.2]), torch.tensor([9]), lambda x: x).tolist() == [0.0]
    lonely = ADVANTAGES[name](torch.tensor([1.2, 0.3, 0.5]), torch.tensor([0, 1, 2]), lambda x: x)
    assert lonely.isfinite().all()
    assert name == "reinforce_pp" or lonely.tolist() == [0.0] * 3
    assert zero_spread(torch.tensor([1.2, 0.3]), torch.tensor([0, 1])).tolist() == [True, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_a_reward_that_is_not_a_number_is_refused_by_position(name, bad):
    with pytest.raises(UserError, match=r"completion 1 .* finite"):
        ADVANTAGES[name](torch.tensor([0.0, bad, 1.0]), torch.tensor([0, 0, 0]), lambda x: x)


def test_rewards_and_groups_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="reward_N"):
        dr_grpo(torch.zeros(3), torch.zeros(2, dtype=torch.int64))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(-100, 100))
def test_a_constant_added_to_a_groups_rewards_changes_nothing(rewards, shift):
    reward_N, group_N = torch.tensor(rewards, dtype=torch.float64), torch.zeros(len(rewards), dtype=torch.int64)
    for advantage in (dr_grpo, rloo):
        before = advantage(reward_N, group_N)
        assert abs(float(before.sum())) < 1e-9
        torch.testing.assert_close(advantage(reward_N + shift, group_N), before, rtol=0, atol=3e-6)
