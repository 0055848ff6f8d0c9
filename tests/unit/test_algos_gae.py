"""GAE, whitening, value loss and moments against plain Python over ragged lists, in float64."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest
import torch
from algos_ragged import SEEDS, Ragged, close, flat, lengths, ragged, seq

from r0.algos.gae import gae, token_rewards
from r0.algos.losses import Aggregation
from r0.algos.stats import Moments, whiten
from r0.algos.sums import ValueSums
from r0.algos.value import ValueInputs, value_loss


def gae_by_hand(reward: Ragged, value: Ragged, gamma: float, lam: float) -> Ragged:
    """The definition: a reverse loop over each completion."""
    out = []
    for rewards, values in zip(reward, value, strict=True):
        advantages, running = [], 0.0
        for t in reversed(range(len(rewards))):
            after = values[t + 1] if t + 1 < len(values) else 0.0
            running = rewards[t] + gamma * after - values[t] + gamma * lam * running
            advantages.insert(0, running)
        out.append(advantages)
    return out


def whiten_by_hand(rows: Ragged, shift: bool) -> Ragged:
    every = [x for row in rows for x in row]
    mean, scale = statistics.fmean(every), math.sqrt((statistics.variance(every) if len(every) > 1 else 0.0) + 1e-8)
    return [[(x - mean) / scale + (0.0 if shift else mean) for x in row] for row in rows]


def case(seed: int) -> tuple[Ragged, Ragged, float, float]:
    rng = random.Random(seed)
    sizes = lengths(rng, most_tokens=40)
    return ragged(rng, sizes), ragged(rng, sizes), rng.choice([0.0, 0.9, 1.0]), rng.choice([0.0, 0.95, 1.0])


@pytest.mark.parametrize("seed", SEEDS)
def test_advantages_and_returns_equal_the_reverse_loop(seed):
    reward, value, gamma, lam = case(seed)
    want = gae_by_hand(reward, value, gamma, lam)
    got = gae(flat(reward), flat(value), seq(value), gamma, lam, whiten_advantages=False)
    close(got.advantage_T, flat(want))
    close(got.return_T, flat(want) + flat(value))


@pytest.mark.parametrize("seed", SEEDS)
def test_whitening_scales_rewards_first_and_advantages_last(seed):
    reward, value, gamma, lam = case(seed)
    raw = gae_by_hand(whiten_by_hand(reward, shift=False), value, gamma, lam)
    got = gae(flat(reward), flat(value), seq(value), gamma, lam, whiten_rewards=True)
    close(got.advantage_T, flat(whiten_by_hand(raw, shift=True)), 1e-6)
    close(got.return_T, flat(raw) + flat(value), 1e-6)  # returns are those before the advantages are whitened


@pytest.mark.parametrize("seed", SEEDS)
def test_monte_carlo_returns_with_gamma_and_lambda_one(seed):
    reward, value, _, _ = case(seed)
    want = [[sum(row[t:]) for t in range(len(row))] for row in reward]
    close(gae(flat(reward), flat(value), seq(value), 1.0, 1.0).return_T, flat(want))


@pytest.mark.parametrize("seed", SEEDS)
def test_token_rewards_hold_the_kl_everywhere_and_the_score_at_the_end(seed):
    rng = random.Random(seed)
    sizes = lengths(rng)
    kl, score = ragged(rng, sizes), [rng.gauss(0, 1) for _ in sizes]
    want = [[-0.05 * x for x in row] for row in kl]
    for row, s in zip(want, score, strict=True):
        row[-1] += s
    score_N = torch.tensor(score, dtype=torch.float64)
    close(token_rewards(score_N, flat(kl), seq(kl), 0.05), flat(want))
    bare = [[0.0] * (len(row) - 1) + [s] for row, s in zip(kl, score, strict=True)]
    close(token_rewards(score_N, None, seq(kl), 0.05), flat(bare))


def test_one_completion_never_leaks_into_the_next():
    seq_T = torch.tensor([0, 0, 1, 1, 1])
    before = gae(torch.ones(5), torch.zeros(5), seq_T, 1.0, 0.95, whiten_advantages=False).advantage_T
    loud = torch.tensor([1.0, 1, 100, 100, 100])
    after = gae(loud, loud, seq_T, 1.0, 0.95, whiten_advantages=False).advantage_T
    quiet = gae(loud[:2], loud[:2], seq_T[:2], 1.0, 0.95, whiten_advantages=False).advantage_T
    assert before.tolist() == pytest.approx([1.95, 1.0, 1 + 0.95 * 1.95, 1.95, 1.0])
    assert after[:2].tolist() == quiet.tolist()


def test_one_token_and_no_token():
    one = gae(torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor([0]), 1.0, 0.95, whiten_rewards=True)
    assert one.return_T.tolist() == [2.0]
    assert one.advantage_T.tolist() == [0.0]  # nothing to compare with
    none = torch.zeros(0)
    empty = gae(none, none, torch.zeros(0, dtype=torch.int64), 1.0, 0.95, whiten_rewards=True)
    assert empty.advantage_T.shape == (0,)


def test_ranks_get_the_moments_of_all_of_them():
    x_T = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 7
    parts = [x_T[:0], x_T[:13], x_T[13:]]  # one rank has no tokens
    merged = Moments.of(parts[0]) + Moments.of(parts[1]) + Moments.of(parts[2])
    close(merged.mean, x_T.mean())
    close(merged.variance, x_T.var(correction=1))
    total = torch.stack([merged.count, merged.total, merged.squares])
    for shift in (True, False):
        close(torch.cat([whiten(part, lambda mine: total, shift) for part in parts]), whiten(x_T, shift_mean=shift))


def test_whitening_divides_by_the_count_less_one():
    assert whiten(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).tolist() == pytest.approx([-1, 0, 1], abs=1e-7)
    assert whiten(torch.tensor([4.0])).tolist() == [0.0]  # a single element has no variance


def test_a_mini_batch_of_empty_completions_has_value_loss_zero():
    none_T = torch.zeros(0, requires_grad=True)
    loss, sums = value_loss(ValueInputs(none_T, none_T, none_T, torch.zeros(0, dtype=torch.int64), 2, 0.0), 0.2)
    loss.backward()
    assert float(loss) == 0.0
    assert none_T.grad.shape == (0,)
    assert not any(sums.means().values())


def value_by_hand(value: Ragged, old: Ragged, target: Ragged, clip: float, how: Aggregation) -> float:
    loss = 0.0
    for values, olds, targets in zip(value, old, target, strict=True):
        for v, o, r in zip(values, olds, targets, strict=True):
            held = min(max(v, o - clip), o + clip)
            share = 1.0 if how is Aggregation.TOKENS else 1.0 / len(values)
            loss += share * 0.5 * max((v - r) ** 2, (held - r) ** 2)
    return loss / (sum(map(len, value)) if how is Aggregation.TOKENS else len(value))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", list(Aggregation))
def test_the_value_loss_and_its_gradient_equal_the_loop(seed, how):
    rng = random.Random(seed)
    sizes = lengths(rng)
    old, target = ragged(rng, sizes), ragged(rng, sizes)
    value = [[o + rng.gauss(0, 0.4) for o in row] for row in old]
    count = sum(sizes) if how is Aggregation.TOKENS else len(sizes)
    inputs = ValueInputs(flat(value).requires_grad_(), flat(old), flat(target), seq(value), len(sizes), float(count))
    loss, sums = value_loss(inputs, 0.2, how)
    close(loss, value_by_hand(value, old, target, 0.2, how))
    (slope_T,) = torch.autograd.grad(loss, inputs.value_T)
    slopes = []
    for i, row in enumerate(value):
        for t in range(len(row)):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [list(r) for r in value]
                moved[i][t] += step
                sides.append(value_by_hand(moved, old, target, 0.2, how))
            slopes.append((sides[0] - sides[1]) / 2e-6)
    close(slope_T, slopes, 1e-7)
    everything, errors = flat(target), flat(target) - flat(value)
    if len(everything) > 1:
        want = 1 - float(errors.var(correction=0) / everything.var(correction=0))
        assert sums.explained_variance() == pytest.approx(want)


@pytest.mark.parametrize("how", list(Aggregation))
def test_parts_of_a_mini_batch_add_up(how):
    rng = random.Random(1)
    sizes = [3, 1, 5, 2]
    value, old, target = (ragged(rng, sizes) for _ in range(3))
    count = float(sum(sizes) if how is Aggregation.TOKENS else len(sizes))
    whole, whole_sums = value_loss(ValueInputs(flat(value), flat(old), flat(target), seq(value), 4, count), 0.2, how)
    parts = []
    for at in (slice(0, 1), slice(1, 4)):
        v, o, t = value[at], old[at], target[at]
        parts.append(value_loss(ValueInputs(flat(v), flat(o), flat(t), seq(v), len(v), count), 0.2, how))
    close(parts[0][0] + parts[1][0], whole)
    merged = (ValueSums.zero() + parts[0][1] + parts[1][1]).reduced()
    assert merged.means() == pytest.approx(whole_sums.means())


def test_explained_variance_is_one_zero_or_negative_and_never_nan():
    r_T = torch.tensor([1.0, 2.0, 4.0])
    zeros_T, no_T = torch.zeros(3), torch.zeros(3, dtype=torch.bool)
    assert ValueSums.of(r_T, r_T, zeros_T, no_T).explained_variance() == pytest.approx(1.0)
    assert ValueSums.of(zeros_T, r_T, zeros_T, no_T).explained_variance() == pytest.approx(0.0)
    assert ValueSums.of(-r_T, r_T, zeros_T, no_T).explained_variance() == pytest.approx(-3.0)
    assert ValueSums.of(r_T, torch.full((3,), 0.1), zeros_T, no_T).explained_variance() == 0.0
    assert ValueSums.zero().means()["explained_variance"] == 0.0


@pytest.mark.parametrize("change", [{"value_T": torch.zeros(2, 1)}, {"return_T": torch.zeros(1)}, {"denominator": 0.0}])
def test_shapes_that_would_broadcast_and_empty_denominators_are_refused(change):
    good = ValueInputs(torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.int64), 1, 2.0)
    with pytest.raises(ValueError):
        replace(good, **change)
