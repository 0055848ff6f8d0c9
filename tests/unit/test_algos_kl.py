"""KL estimators and penalised rewards against plain Python, in float64."""

from __future__ import annotations

import math
import random

import pytest
import torch
from algos_ragged import SEEDS, close, flat, lengths, ragged, seq

from r0.algos.kl import KL_ESTIMATORS, kl_penalised

RULES = {
    "k1": lambda p, q: p - q,
    "k2": lambda p, q: (p - q) ** 2 / 2,
    "k3": lambda p, q: math.exp(q - p) - 1 - (q - p),
}
SLOPES = {"k1": lambda p, q: 1.0, "k2": lambda p, q: p - q, "k3": lambda p, q: 1 - math.exp(q - p)}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sorted(RULES))
def test_estimators_and_their_gradients_equal_the_loops(name, seed):
    rng = random.Random(seed)
    p, q = [rng.gauss(-2, 1) for _ in range(20)], [rng.gauss(-2, 1) for _ in range(20)]
    logp_T = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    kl_T = KL_ESTIMATORS[name](logp_T, torch.tensor(q, dtype=torch.float64))
    close(kl_T, [RULES[name](a, b) for a, b in zip(p, q, strict=True)])
    (slope_T,) = torch.autograd.grad(kl_T.sum(), logp_T)
    close(slope_T, [SLOPES[name](a, b) for a, b in zip(p, q, strict=True)])


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_huge_log_ratios_stay_finite_in_float32(name, far):
    logp_T = torch.tensor([far], requires_grad=True)
    kl_T = KL_ESTIMATORS[name](logp_T, torch.zeros(1))
    (slope_T,) = torch.autograd.grad(kl_T.sum(), logp_T)
    assert kl_T.isfinite().all()
    assert slope_T.isfinite().all()


def test_one_token_of_k3_is_bounded_by_the_clamp():
    reference, policy = torch.tensor([0.0, -1e4]), torch.tensor([-1e4, 0.0])
    assert KL_ESTIMATORS["k3"](policy, reference).tolist() == pytest.approx([math.exp(20) - 21, 19 + math.exp(-20)])
    assert math.exp(20) - 21 == pytest.approx(4.85e8, rel=1e-3)  # as docs/algorithms.md says


def test_k3_keeps_its_digits_near_zero_in_float32():
    shift = 0.0003
    got = KL_ESTIMATORS["k3"](torch.tensor([-shift]), torch.zeros(1))
    assert float(got) == pytest.approx(math.expm1(shift) - shift, rel=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_estimators_agree_with_the_exact_kl_of_a_distribution(seed):
    generator = torch.Generator().manual_seed(seed)
    log_p = torch.randn(50, dtype=torch.float64, generator=generator).log_softmax(0)
    log_q = (log_p + 0.1 * torch.randn(50, dtype=torch.float64, generator=generator)).log_softmax(0)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    for name in ("k1", "k3"):  # unbiased: their expectation is the KL
        torch.testing.assert_close((log_p.exp() * KL_ESTIMATORS[name](log_p, log_q)).sum(), exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kl_in_the_reward_is_summed_over_each_completion(seed):
    rng = random.Random(seed)
    sizes = lengths(rng)
    kl, reward = ragged(rng, sizes), [rng.gauss(0, 1) for _ in sizes]
    got = kl_penalised(torch.tensor(reward, dtype=torch.float64), flat(kl), seq(kl), 0.3)
    close(got, [r - 0.3 * sum(row) for r, row in zip(reward, kl, strict=True)])
