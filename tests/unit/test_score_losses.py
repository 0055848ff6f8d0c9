"""Stage C's losses against their formulas in plain Python; gradients; groups without anything to compare."""

import math

import pytest
import torch

from r0.algos.score_losses import (
    SCORE_LOSSES,
    ScoreLossSettings,
    bce,
    infonce,
    listnet,
    mse,
    ranknet,
    score_losses,
    weighted,
)

SCORES = [1.25, -0.5, 3.0, 0.0, -7.5, 2.0]
GROUPS = {
    "binary": [1.0, 0.0, 1.0, 0.0, 0.0, 0.0],
    "graded": [0.5, 0.0, 1.0, 0.5, 0.25, 0.0],
    "one label": [1.0] * 6,
}


def sigma(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def by_hand(name: str, s: list[float], y: list[float], temperature: float) -> float:
    n = range(len(s))
    if name == "bce":
        return sum(-(b * math.log(sigma(a)) + (1 - b) * math.log(1 - sigma(a))) for a, b in zip(s, y, strict=True)) / len(s)
    if name == "mse":
        return sum((sigma(a) - b) ** 2 for a, b in zip(s, y, strict=True)) / len(s)
    if name == "ranknet":
        pairs = [math.log(1 + math.exp(-(s[i] - s[j]))) for i in n for j in n if y[i] > y[j]]
        return sum(pairs) / len(pairs) if pairs else 0.0
    if name == "listnet":
        targets = [math.exp(b / temperature) / sum(math.exp(c / temperature) for c in y) for b in y]
        shares = [math.exp(a) / sum(math.exp(c) for c in s) for a in s]
        return -sum(t * math.log(p) for t, p in zip(targets, shares, strict=True))
    terms = []
    for i in n:
        negatives = [math.exp(s[j] / temperature) for j in n if y[j] < y[i]]
        if negatives:
            own = math.exp(s[i] / temperature)
            terms.append(-math.log(own / (own + sum(negatives))))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("labels", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("name", SCORE_LOSSES)
def test_a_loss_is_its_formula(name, labels, temperature):
    settings = ScoreLossSettings({name: 2.0}, listnet_temperature=temperature, infonce_temperature=temperature)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        found = score_losses(torch.tensor(SCORES, dtype=dtype), torch.tensor(labels, dtype=dtype), settings)
        expected = by_hand(name, SCORES, labels, temperature)
        assert list(found) == [name]
        assert found[name].item() == pytest.approx(expected, rel=tolerance, abs=tolerance)
        assert weighted(found, settings).item() == pytest.approx(2 * expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("labels", GROUPS.values(), ids=GROUPS)
def test_gradients_are_those_of_finite_differences_and_finite_everywhere(labels):
    label_N = torch.tensor(labels, dtype=torch.float64)
    settings = ScoreLossSettings(dict.fromkeys(SCORE_LOSSES, 1.0), infonce_temperature=0.5)

    def total(score_N: torch.Tensor) -> torch.Tensor:
        return weighted(score_losses(score_N, label_N, settings), settings)

    score_N = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, (score_N,))
    far_N = torch.tensor([400.0, -400.0, 0.0, 90.0, -90.0, 1e4], requires_grad=True)
    total(far_N).backward()
    assert far_N.grad.isfinite().all()


def test_a_better_order_costs_less_whatever_the_loss():
    label_N = torch.tensor([1.0, 0.5, 0.0])
    for loss in (bce, mse, ranknet, listnet, infonce):
        assert loss(torch.tensor([2.0, 0.0, -2.0]), label_N) < loss(torch.tensor([-2.0, 0.0, 2.0]), label_N)


def test_relations_that_the_papers_state():
    score_N, label_N = torch.tensor([0.3, -1.2], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    # With one positive and one negative, InfoNCE is RankNet; a pair that is not told apart costs log 2.
    assert infonce(score_N, label_N).item() == pytest.approx(ranknet(score_N, label_N).item(), abs=1e-12)
    assert ranknet(torch.zeros(2), label_N.float()).item() == pytest.approx(math.log(2))
    # ListNet is least where scores are the scaled labels, up to a constant.
    best_N, noise_N = label_N / 0.2 + 3.0, torch.tensor([0.1, -0.1], dtype=torch.float64)
    assert listnet(best_N, label_N, 0.2) < listnet(best_N + noise_N, label_N, 0.2)


def test_equal_labels_are_never_compared():
    score_N = torch.tensor([5.0, -5.0, 0.0], requires_grad=True)
    (ranknet(score_N, torch.ones(3)) + infonce(score_N, torch.ones(3))).backward()
    assert score_N.grad.tolist() == [0.0, 0.0, 0.0]
    moved = ranknet(torch.tensor([9.0, -9.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert moved.item() == pytest.approx((math.log(1 + math.exp(-9)) + math.log(1 + math.exp(9))) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "reason"),
    [
        (torch.zeros(2), torch.zeros(3), {"bce": 1.0}, "one length"),
        (torch.zeros(0), torch.zeros(0), {"bce": 1.0}, "one length"),
        (torch.zeros(2, 2), torch.zeros(2, 2), {"bce": 1.0}, "vectors"),
        (torch.zeros(2), torch.zeros(2), {"hinge": 1.0}, "unknown losses: hinge"),
    ],
)
def test_what_no_group_is_refused(scores, labels, weights, reason):
    with pytest.raises(ValueError, match=reason):
        score_losses(scores, labels, ScoreLossSettings(weights))


def test_no_weight_at_all_is_refused():
    with pytest.raises(ValueError, match="no loss"):
        weighted(score_losses(torch.zeros(2), torch.ones(2), ScoreLossSettings({"bce": 0.0})), ScoreLossSettings())
