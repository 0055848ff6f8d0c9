"""Policy losses against token-by-token Python in float64; gradients against central differences of that Python."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from algos_ragged import SEEDS, Ragged, close, flat, lengths, ragged, seq

from r0.algos.losses import POLICY_LOSSES, Aggregation, LossInputs, LossOutputs, LossSettings, tis_weights
from r0.algos.sums import PolicySums

NAMES = sorted(POLICY_LOSSES)


class Case:
    """One random mini-batch: ragged lists, and the settings."""

    def __init__(self, seed: int):
        rng = random.Random(seed)
        self.sizes = lengths(rng)
        self.old = ragged(rng, self.sizes, -2.0, 0.7)
        near = ragged(rng, self.sizes, 0.0, 0.4)
        self.logp = [[o + d for o, d in zip(a, b, strict=True)] for a, b in zip(self.old, near, strict=True)]
        self.rollout = [[o + rng.gauss(0, 0.5) for o in row] for row in self.old]
        self.ref = [[o + rng.gauss(0, 0.5) for o in row] for row in self.old]
        self.advantage = ragged(rng, self.sizes)  # differs from token to token, as PPO's does
        self.settings = LossSettings(
            clip_low=rng.uniform(0.05, 0.3),
            clip_high=rng.uniform(0.05, 0.4),
            aggregation=rng.choice(list(Aggregation)),
            kl_coef=rng.choice([0.0, 0.2]),
            kl_estimator=rng.choice(["k1", "k2", "k3"]),
            tis_cap=rng.choice([0.0, 1.1, 3.0]),
        )

    @property
    def denominator(self) -> float:
        return float(sum(self.sizes) if self.settings.aggregation is Aggregation.TOKENS else len(self.sizes))

    def inputs(self, dtype: torch.dtype = torch.float64) -> LossInputs:
        return LossInputs(
            logp_T=flat(self.logp, dtype).requires_grad_(),
            advantage_T=flat(self.advantage, dtype),
            seq_T=seq(self.logp),
            completions=len(self.sizes),
            denominator=self.denominator,
            old_logp_T=flat(self.old, dtype),
            rollout_logp_T=flat(self.rollout, dtype),
            ref_logp_T=flat(self.ref, dtype),
        )


def surrogate(name: str, case: Case, logp: Ragged, held: Ragged, i: int, t: int) -> tuple[float, float, bool]:
    """Loss, ratio and clipped of one token. ``held`` are the log-probabilities that a stop-gradient sees."""
    low, high = 1 - case.settings.clip_low, 1 + case.settings.clip_high
    advantage = case.advantage[i][t]
    if name == "cispo":
        ratio = math.exp(held[i][t] - case.old[i][t])
        weight = min(max(ratio, low), high)
        return -weight * advantage * logp[i][t], ratio, weight != ratio
    if name == "gspo":
        mean = sum(h - o for h, o in zip(held[i], case.old[i], strict=True)) / len(held[i])
        ratio = math.exp(mean) * math.exp(logp[i][t]) / math.exp(held[i][t])
    else:
        ratio = math.exp(logp[i][t] - case.old[i][t])
    clipped = min(max(ratio, low), high)
    return -min(ratio * advantage, clipped * advantage), ratio, clipped * advantage < ratio * advantage


def kl_of(name: str, p: float, q: float) -> float:
    return {"k1": p - q, "k2": (p - q) ** 2 / 2, "k3": math.exp(q - p) - 1 - (q - p)}[name]


def by_hand(name: str, case: Case, logp: Ragged, held: Ragged) -> tuple[float, dict[str, float]]:
    """Loss and sums, one token after another."""
    s, loss = case.settings, 0.0
    sums = dict.fromkeys(PolicySums.__dataclass_fields__, 0.0)
    for i, row in enumerate(logp):
        for t, p in enumerate(row):
            token, ratio, clipped = surrogate(name, case, logp, held, i, t)
            full = math.exp(case.old[i][t] - case.rollout[i][t])
            weight = min(full, s.tis_cap) if s.tis_cap else 1.0
            kl = kl_of(s.kl_estimator, p, case.ref[i][t])
            share = 1.0 if s.aggregation is Aggregation.TOKENS else 1.0 / len(row)
            loss += share * (weight * token + s.kl_coef * kl) / case.denominator
            figures = {"tokens": 1.0, "ratio": ratio, "clipped": clipped, "kl": kl, "tis_weight": weight}
            figures["tis_capped"] = bool(s.tis_cap) and full >= s.tis_cap
            figures["policy_kl"] = kl_of("k3", case.old[i][t], p)
            figures["gap"] = abs(case.old[i][t] - case.rollout[i][t])
            figures["objective"] = share * weight * token / case.denominator
            for key, value in figures.items():
                sums[key] += value
    return loss, sums


def gradient_by_hand(name: str, case: Case, step: float = 1e-6) -> list[float]:
    """Central differences; the values behind a stop-gradient stay where they are."""
    slopes = []
    for i, row in enumerate(case.logp):
        for t in range(len(row)):
            sides = []
            for sign in (1, -1):
                moved = [list(r) for r in case.logp]
                moved[i][t] += sign * step
                sides.append(by_hand(name, case, moved, case.logp)[0])
            slopes.append((sides[0] - sides[1]) / (2 * step))
    return slopes


def run(name: str, inputs: LossInputs, settings: LossSettings) -> tuple[LossOutputs, torch.Tensor]:
    outputs = POLICY_LOSSES[name](inputs, settings)
    (slope_T,) = torch.autograd.grad(outputs.loss, inputs.logp_T, retain_graph=True)
    return outputs, slope_T


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_losses_figures_and_gradients_equal_the_loops(name, seed):
    case = Case(seed)
    outputs, slope_T = run(name, case.inputs(), case.settings)
    loss, sums = by_hand(name, case, case.logp, case.logp)
    close(outputs.loss, loss)
    for key, value in sums.items():
        close(getattr(outputs.sums, key), value)
    close(slope_T, gradient_by_hand(name, case), 1e-7)


def part(inputs: LossInputs, which: list[int]) -> LossInputs:
    """Some completions of a mini-batch, numbered anew, as a micro-row of a rank sees them."""
    keep_T = torch.isin(inputs.seq_T, torch.tensor(which, dtype=torch.int64))
    number = torch.full((inputs.completions,), -1, dtype=torch.int64)
    number[which] = torch.arange(len(which))
    names = ("logp_T", "advantage_T", "old_logp_T", "rollout_logp_T", "ref_logp_T")
    tensors = {name: getattr(inputs, name)[keep_T] for name in names}
    return replace(inputs, seq_T=number[inputs.seq_T[keep_T]], completions=len(which), **tensors)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_any_split_of_the_mini_batch_adds_up_to_the_same_loss_and_gradient(name, seed):
    case, rng = Case(seed), random.Random(seed)
    inputs = case.inputs()
    whole, slope_T = run(name, inputs, case.settings)
    order = sorted(rng.sample(range(len(case.sizes)), rng.randint(0, len(case.sizes))))
    rest = [i for i in range(len(case.sizes)) if i not in order]
    outputs = [POLICY_LOSSES[name](part(inputs, which), case.settings) for which in (order, rest)]  # one may be empty
    loss = outputs[0].loss + outputs[1].loss
    close(loss, whole.loss)
    close(torch.autograd.grad(loss, inputs.logp_T)[0], slope_T)
    merged = outputs[0].sums + outputs[1].sums
    assert merged.means() == pytest.approx(whole.sums.means())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_without_old_log_probabilities_the_current_ones_stand_in(name, seed):
    case = Case(seed)
    case.old = case.logp
    without, slope_T = run(name, replace(case.inputs(), old_logp_T=None), case.settings)
    given, given_T = run(name, case.inputs(), case.settings)
    close(without.loss, given.loss)
    close(slope_T, given_T)
    assert without.sums.means()["ratio"] == pytest.approx(1.0)
    assert without.sums.means()["clip_share"] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_on_policy_every_loss_has_the_policy_gradient(name):
    case = Case(7)
    inputs = replace(case.inputs(), old_logp_T=None)
    _, slope_T = run(name, inputs, LossSettings())
    close(slope_T, -inputs.advantage_T / case.denominator)


def test_gspos_gradient_is_that_of_the_sequence_level_objective():
    case = Case(3)
    settings = LossSettings(clip_low=0.9, clip_high=9.0, aggregation=Aggregation.SEQUENCES)
    inputs = replace(case.inputs(), denominator=len(case.sizes))
    advantage_N = torch.linspace(-1, 1, len(case.sizes), dtype=torch.float64)
    inputs = replace(inputs, advantage_T=advantage_N[inputs.seq_T])
    _, slope_T = run("gspo", inputs, settings)
    rows = (inputs.logp_T - inputs.old_logp_T).split(case.sizes)
    direct = -sum(a * row.mean().exp() for a, row in zip(advantage_N, rows, strict=True)) / len(rows)
    close(slope_T, torch.autograd.grad(direct, inputs.logp_T)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("far", [-1e4, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_huge_log_ratios_stay_finite_in_float32(name, far, advantage):
    logp_T = torch.tensor([far, -1.0], requires_grad=True)
    zeros_T, seq_T = torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    inputs = LossInputs(logp_T, torch.full((2,), advantage), seq_T, 1, 2.0, zeros_T, torch.full((2,), -far), zeros_T)
    outputs, slope_T = run(name, inputs, LossSettings(kl_coef=0.1, tis_cap=3.0))
    assert outputs.loss.isfinite()
    assert slope_T.isfinite().all()
    assert all(math.isfinite(value) for value in outputs.sums.means().values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_one_token_and_no_token(name, aggregation):
    settings = LossSettings(aggregation=aggregation)
    one = LossInputs(torch.tensor([-0.5], requires_grad=True), torch.ones(1), torch.zeros(1, dtype=torch.int64), 1, 1.0)
    assert run(name, one, settings)[1].tolist() == [-1.0]
    logits = torch.zeros(4, requires_grad=True)
    none = LossInputs(logits[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0, 5.0)
    outputs = POLICY_LOSSES[name](none, settings)
    outputs.loss.backward()  # a rank without rows joins the backward pass with a zero
    assert logits.grad is not None
    assert logits.grad.tolist() == [0.0] * 4
    assert set(outputs.sums.means().values()) == {0.0}


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_widened_before_the_exponential(name):
    case = Case(11)
    narrow = POLICY_LOSSES[name](case.inputs(torch.bfloat16), case.settings)
    assert narrow.loss.dtype == torch.float32
    case_32 = case.inputs(torch.float32)
    assert narrow.loss.item() == pytest.approx(POLICY_LOSSES[name](case_32, case.settings).loss.item(), abs=0.05)


def test_only_the_policys_log_probabilities_carry_a_gradient():
    case = Case(5)
    leaves = {n: getattr(case.inputs(), n).detach().requires_grad_() for n in ("old_logp_T", "rollout_logp_T", "ref_logp_T")}
    outputs = POLICY_LOSSES["ppo_clip"](replace(case.inputs(), **leaves), LossSettings(kl_coef=0.1, tis_cap=2.0))
    outputs.loss.backward()
    assert all(leaf.grad is None for leaf in leaves.values())


def test_importance_weights_are_capped_and_a_reference_alone_changes_no_loss():
    assert tis_weights(torch.tensor([0.0, 1e4, -1.0]), torch.zeros(3), 3.0).tolist() == pytest.approx([1.0, 3.0, math.exp(-1)])
    case = Case(2)
    with_ref = POLICY_LOSSES["ppo_clip"](case.inputs(), LossSettings())
    without = POLICY_LOSSES["ppo_clip"](replace(case.inputs(), ref_logp_T=None, rollout_logp_T=None), LossSettings(tis_cap=0.5))
    close(with_ref.loss, without.loss)
    assert with_ref.sums.means()["kl"] != 0.0
    assert without.sums.means()["tis_capped_share"] == 0.0


@pytest.mark.parametrize("how", list(Aggregation))
def test_a_mini_batch_of_empty_completions_has_loss_zero(how):
    none_T = torch.zeros(0, requires_grad=True)
    inputs = LossInputs(none_T, torch.zeros(0), torch.zeros(0, dtype=torch.int64), 3, 0.0 if how is Aggregation.TOKENS else 3.0)
    outputs = POLICY_LOSSES["gspo"](inputs, LossSettings(aggregation=how))
    outputs.loss.backward()
    assert float(outputs.loss) == 0.0
    assert not any(outputs.sums.means().values())


@pytest.mark.parametrize("change", [{"logp_T": torch.zeros(3, 1)}, {"advantage_T": torch.zeros(())}, {"denominator": 0.0}])
def test_shapes_that_would_broadcast_and_empty_denominators_are_refused(change):
    good = LossInputs(torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.int64), 1, 3.0)
    with pytest.raises(ValueError):
        replace(good, **change)
