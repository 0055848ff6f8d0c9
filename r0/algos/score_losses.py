"""Losses of stage C: the scores of a query's documents against their labels. Pure functions of one group.

Legend: N documents of a group · ``score_N`` float, logit(yes) − logit(no), so that σ(score) is P(yes) over the two ·
``label_N`` float in [0, 1], 1 the most relevant. Each loss is a mean (over documents, pairs or positives), so long lists
count as much as short ones. A group without anything to compare has loss 0 and gradient 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class ScoreLossSettings:
    """Weights by the names in ``SCORE_LOSSES`` (missing: 0), and parameters of single losses."""

    weights: Mapping[str, float] = field(default_factory=dict)
    listnet_temperature: float = 1.0
    infonce_temperature: float = 1.0


def bce(score_N: Tensor, label_N: Tensor) -> Tensor:
    """Binary cross-entropy of P(yes) against the labels, which may be between 0 and 1; mean over documents."""
    return functional.binary_cross_entropy_with_logits(score_N, label_N)


def mse(score_N: Tensor, label_N: Tensor) -> Tensor:
    """``(P(yes) − label)²`` (Brier, 1950); mean over documents."""
    return (score_N.sigmoid() - label_N).square().mean()


def ranknet(score_N: Tensor, label_N: Tensor) -> Tensor:
    """``log(1 + exp(−(s_i − s_j)))``, mean over the pairs with label_i > label_j (Burges et al., 2005, eq. 3 with P̄ = 1)."""
    better_NN = label_N[:, None] > label_N[None, :]
    return _mean_of(functional.softplus(score_N[None, :] - score_N[:, None]), better_NN)


def listnet(score_N: Tensor, label_N: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of softmax(scores) against softmax(labels / temperature) (Cao et al., 2007, top-one probabilities)."""
    target_N = (label_N / temperature).softmax(dim=0)
    return -(target_N * score_N.log_softmax(dim=0)).sum()


def infonce(score_N: Tensor, label_N: Tensor, temperature: float = 1.0) -> Tensor:
    """``−log(e^(s_p/τ) / (e^(s_p/τ) + Σ_n e^(s_n/τ)))``, mean over positives p (van den Oord et al., 2018, eq. 4).

    The negatives n of p are the documents with a lower label; p is a positive if it has any. So with graded labels each grade
    is compared with those below it. Documents of equal label are never negatives of each other.
    """
    lower_NN = label_N[:, None] > label_N[None, :]
    positive_N = lower_NN.any(dim=1)
    scaled_N = score_N / temperature
    own_NN = torch.eye(len(score_N), dtype=torch.bool, device=score_N.device)
    among_NN = scaled_N[None, :].masked_fill(~(lower_NN | own_NN), -torch.inf)
    return _mean_of(among_NN.logsumexp(dim=1) - scaled_N, positive_N)


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values; 0 where none is. Nothing here waits for a GPU, as picking them out would."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


SCORE_LOSSES = ("bce", "mse", "ranknet", "listnet", "infonce")
"""The names used in the configuration."""


def score_losses(score_N: Tensor, label_N: Tensor, settings: ScoreLossSettings) -> dict[str, Tensor]:
    """The unweighted losses of one group, by name; only those with a weight above 0.

    Raises:
        ValueError: scores and labels are not vectors of the same length ≥ 1, or a weight has an unknown name.
    """
    if score_N.ndim != 1 or score_N.shape != label_N.shape or not len(score_N):
        raise ValueError(f"scores {tuple(score_N.shape)} and labels {tuple(label_N.shape)} must be vectors of one length")
    losses: dict[str, Callable[[], Tensor]] = {
        "bce": lambda: bce(score_N, label_N),
        "mse": lambda: mse(score_N, label_N),
        "ranknet": lambda: ranknet(score_N, label_N),
        "listnet": lambda: listnet(score_N, label_N, settings.listnet_temperature),
        "infonce": lambda: infonce(score_N, label_N, settings.infonce_temperature),
    }
    if unknown := set(settings.weights) - set(losses):
        raise ValueError(f"unknown losses: {', '.join(sorted(unknown))}; known losses: {', '.join(SCORE_LOSSES)}")
    return {name: losses[name]() for name, weight in settings.weights.items() if weight > 0}


def weighted(losses: Mapping[str, Tensor], settings: ScoreLossSettings) -> Tensor:
    """The weighted sum of the losses.

    Raises:
        ValueError: there are no losses.
    """
    if not losses:
        raise ValueError("no loss has a weight above 0")
    return torch.stack([settings.weights[name] * loss for name, loss in losses.items()]).sum()
