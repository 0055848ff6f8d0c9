"""Advantages against plain Python over lists of groups, in float64."""

from __future__ import annotations

import math
import random
import statistics
from types import SimpleNamespace

import pytest
import torch
from algos_ragged import SEEDS, close, flat, lengths, ragged, seq
from hypothesis import given, settings
from hypothesis import strategies as st

from r0 import sampling
from r0.algos.advantages import ADVANTAGES, dr_grpo, grpo, reinforce_pp, reinforce_pp_completions, rloo, zero_spread
from r0.algos.gae import token_rewards
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
def test_reinforce_pp_over_completions_equals_the_loop(seed):
    reward, group, _ = batch(seed)
    mean, variance = statistics.fmean(reward), statistics.variance(reward) if len(reward) > 1 else 0.0
    want = [(r - mean) / math.sqrt(variance + 1e-8) for r in reward]
    close(reinforce_pp_completions(torch.tensor(reward, dtype=torch.float64), torch.tensor(group)), want, 1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_reinforce_pp_whitens_the_rewards_still_to_come_over_all_tokens(seed):
    rng = random.Random(seed)
    sizes = lengths(rng)
    kl, score = ragged(rng, sizes), [rng.gauss(0, 1) for _ in sizes]
    to_come = [[s - 0.1 * sum(row[t:]) for t in range(len(row))] for row, s in zip(kl, score, strict=True)]
    tokens = [x for row in to_come for x in row]
    mean, variance = statistics.fmean(tokens), statistics.variance(tokens) if len(tokens) > 1 else 0.0
    want = [(x - mean) / math.sqrt(variance + 1e-8) for x in tokens]
    reward_T = token_rewards(torch.tensor(score, dtype=torch.float64), flat(kl), seq(kl), 0.1)
    close(reinforce_pp(reward_T, seq(kl)), want, 1e-8)


def test_reinforce_pp_weighs_completions_by_their_length():
    seq_T = torch.tensor([0, 1, 1, 1])
    reward_T = token_rewards(torch.tensor([1.0, 0.0], dtype=torch.float64), None, seq_T, 0.0)
    # Rewards to come 1, 0, 0, 0: mean 1/4, sample variance 1/4. Over completions it would be ±1/√2.
    close(reinforce_pp(reward_T, seq_T), [1.5, -0.5, -0.5, -0.5], 1e-7)


def test_reinforce_pp_on_ranks_is_that_of_the_whole_batch():
    reward_T = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    seq_T = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4])
    parts = [slice(0, 5), slice(5, 5), slice(5, 12)]
    to_come = [sum(reward_T[u] for u in range(t, 12) if seq_T[u] == seq_T[t]) for t in range(12)]
    total = torch.stack([torch.tensor(12.0, dtype=torch.float64), sum(to_come), sum(x * x for x in to_come)])
    split = [reinforce_pp(reward_T[p], seq_T[p], lambda mine: total) for p in parts]
    close(torch.cat(split), reinforce_pp(reward_T, seq_T))


def test_refill_and_advantage_agree_on_what_is_a_spread():
    for gap in (0.0, 5e-10, 5e-8, 9e-7, 1.1e-6, 1e-3):
        scores = [SimpleNamespace(total=total, masked=False) for total in (0.7, 0.7 + gap)]
        reward_N = torch.tensor([one.total for one in scores], dtype=torch.float64)
        moves = bool(grpo(reward_N, torch.zeros(2, dtype=torch.int64)).any())
        assert sampling.has_spread(SimpleNamespace(scores=scores)) == moves == (gap > 1e-6), gap


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
    assert name == "reinforce_pp_completions" or lonely.tolist() == [0.0] * 3
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
