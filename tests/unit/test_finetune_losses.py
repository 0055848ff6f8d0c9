"""Every loss against its formula, by hand in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import nn

from r0.config import FinetuneConfig
from r0.data.groups import Example, target_labels
from r0.supervised.finetune.losses import make_loss

Rows = Sequence[Sequence[float]]


class _Known(nn.Module):
    """Scores that are given: the text of a document is its logit."""

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**features, "scores": features["known"][:, None] * self.scale}

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def preprocess(self, pairs: Sequence[tuple[str, str]], **_: object) -> dict[str, torch.Tensor]:
        return {"known": torch.tensor([float(document) for _, document in pairs])}


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return CrossEncoder(modules=[_Known()], device="cpu", activation_fn=nn.Identity(), local_files_only=True)


SCORES: Rows = [[0.7, -1.3, 2.1, 0.2], [1.5, 1.4, -0.6, -2.2], [-0.1, 0.3, 0.9, -3.0]]
LABELS: Rows = [[2.0, 0.0, 1.0, 3.0], [0.0, 1.0, 0.0, 0.0], [0.25, 0.5, 1.0, 0.0]]


def of_lists(model: CrossEncoder, loss: str, scores: Rows = SCORES, labels: Rows = LABELS) -> float:
    groups = [Example("q", tuple(map(str, row)), tuple(values)) for row, values in zip(scores, labels, strict=True)]
    targets = [torch.tensor(target_labels(loss, one)) for one in groups]
    made = make_loss(model, FinetuneConfig(loss_type=loss))
    return made([[one.query for one in groups], [list(one.documents) for one in groups]], targets).item()


def mean_of_groups(formula: Callable[[Sequence[float], Sequence[float]], float]) -> float:
    return sum(formula(s, r) for s, r in zip(SCORES, LABELS, strict=True)) / len(SCORES)


def log_softmax(scores: Sequence[float]) -> list[float]:
    total = math.log(math.fsum(math.exp(score) for score in scores))
    return [score - total for score in scores]


def test_bce_and_mse_of_the_sigmoid(model: CrossEncoder) -> None:
    scores, labels = [s for row in SCORES for s in row], [0.0, 0.5, 1.0] * 4
    inputs = [["q"] * len(scores), [str(score) for score in scores]]
    p = [1 / (1 + math.exp(-score)) for score in scores]
    bce = -math.fsum(y * math.log(q) + (1 - y) * math.log(1 - q) for y, q in zip(labels, p, strict=True)) / len(p)
    mse = math.fsum((y - q) ** 2 for y, q in zip(labels, p, strict=True)) / len(p)
    for name, expected in (("pointwise_bce", bce), ("pointwise_mse", mse)):
        found = make_loss(model, FinetuneConfig(loss_type=name))(inputs, torch.tensor(labels)).item()
        assert found == pytest.approx(expected, rel=1e-6)


def test_ranknet_is_the_sum_over_pairs_weighted_by_the_gap_of_their_labels(model: CrossEncoder) -> None:
    def formula(s: Sequence[float], r: Sequence[float]) -> float:
        pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if r[i] < r[j]]
        return math.fsum((r[j] - r[i]) * math.log1p(math.exp(s[i] - s[j])) for i, j in pairs)

    assert of_lists(model, "pairwise_ranknet") == pytest.approx(mean_of_groups(formula), rel=1e-6)
    # Only gaps count: a teacher's logits, negative ones too, give the same as themselves from 0.
    shifted = [[value - 7.5 for value in row] for row in LABELS]
    assert of_lists(model, "pairwise_ranknet", labels=shifted) == pytest.approx(mean_of_groups(formula), rel=1e-6)


def test_listwise_cross_entropy_has_one_positive_or_the_softmax_of_the_labels_as_target(model: CrossEncoder) -> None:
    def formula(s: Sequence[float], r: Sequence[float]) -> float:
        one = set(r) == {0.0, 1.0} and sum(r) == 1
        target = [float(label == 1) for label in r] if one else [math.exp(value) for value in log_softmax(r)]
        return -math.fsum(t * value for t, value in zip(target, log_softmax(s), strict=True))

    assert sum(LABELS[1]) == 1  # so the second group has one positive
    assert of_lists(model, "listwise_ce") == pytest.approx(mean_of_groups(formula), rel=1e-6)


def test_a_positive_that_is_repeated_is_still_one_positive(model: CrossEncoder) -> None:
    found = of_lists(model, "listwise_ce", [[0.5, -0.2, 0.5]], [[1.0, 0.0, 1.0]])
    assert found == pytest.approx(-log_softmax([0.5, -0.2, 0.5])[0], rel=1e-6)


def test_listmle_is_the_likelihood_of_the_labels_order(model: CrossEncoder) -> None:
    labels = [[2.0, 0.0, 1.0, 3.0], [0.5, 1.0, 0.2, 0.0], [0.25, 0.5, 1.0, 0.0]]

    def formula(s: Sequence[float], r: Sequence[float]) -> float:
        ordered = [s[place] for place in sorted(range(len(s)), key=lambda place: -r[place])]
        return -math.fsum(log_softmax(ordered[rank:])[0] for rank in range(len(s)))

    expected = sum(formula(s, r) for s, r in zip(SCORES, labels, strict=True)) / len(SCORES)
    assert of_lists(model, "listwise_mle", labels=labels) == pytest.approx(expected, rel=1e-6)


def test_lambda_is_ndcg_loss_2_plus_plus(model: CrossEncoder) -> None:
    """Wang et al., 2018: pairs weighted by 10 · |G_i − G_j| · |1/D(|i−j|) − 1/D(|i−j|+1)| + |G_i − G_j| · |1/D_i − 1/D_j|."""
    terms = []
    for s, r in zip(SCORES, LABELS, strict=True):
        order = sorted(range(len(s)), key=lambda place: -s[place])
        score, label = [s[place] for place in order], [r[place] for place in order]
        discount = [math.log2(2 + rank) for rank in range(len(s))]
        ideal = math.fsum((2**value - 1) / d for value, d in zip(sorted(r, reverse=True), discount, strict=True))
        gain = [(2**value - 1) / ideal for value in label]
        for i in range(len(s)):
            for j in range(len(s)):
                if label[i] > label[j]:
                    distance = abs(i - j)
                    weight = 10 * abs(1 / discount[distance - 1] - 1 / discount[distance]) + abs(
                        1 / discount[i] - 1 / discount[j]
                    )
                    terms.append(weight * abs(gain[i] - gain[j]) * math.log2(1 + math.exp(score[j] - score[i])))
    assert of_lists(model, "listwise_lambda") == pytest.approx(math.fsum(terms) / len(terms), rel=1e-6, abs=1e-6)


def test_margin_mse_compares_margins_with_the_teachers(model: CrossEncoder) -> None:
    made = make_loss(model, FinetuneConfig(loss_type="margin_mse"))
    teacher = [sorted(row, reverse=True) for row in LABELS]
    columns = [["q"] * len(SCORES), *([str(row[place]) for row in SCORES] for place in range(4))]
    found = made(columns, [torch.tensor(row) for row in teacher]).item()
    margins = [((s[0] - s[k]) - (t[0] - t[k])) ** 2 for s, t in zip(SCORES, teacher, strict=True) for k in (1, 2, 3)]
    assert found == pytest.approx(math.fsum(margins) / len(margins), rel=1e-6)


@pytest.mark.parametrize("stage", [0, 3])  # with cached gradients, and without
def test_in_batch_negatives_are_a_softmax_over_own_and_others_documents(model: CrossEncoder, stage: int) -> None:
    """With as many negatives as there are, all documents of the batch compete; scores are 10 · σ(s)."""
    made = make_loss(model, FinetuneConfig(loss_type="in_batch_negatives", negatives=100, micro_batch_size=2, zero_stage=stage))
    columns = [["a", "b", "c"], ["0.5", "-0.4", "1.2"], ["0.1", "0.9", "-0.8"]]
    found = made(columns, None).item()
    documents = [float(text) for column in columns[1:] for text in column]
    squashed = [10 / (1 + math.exp(-score)) for score in documents]
    expected = -math.fsum(log_softmax(squashed)[place] for place in range(3)) / 3
    assert found == pytest.approx(expected, rel=1e-6)
