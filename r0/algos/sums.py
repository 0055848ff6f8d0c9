"""Statistics of a loss as plain sums, so that rows, mini-batches and ranks add up to exact means.

Legend: T completion tokens. Each field is a float64 scalar on the losses' device; there is no device synchronization before
``means``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from r0.algos.layout import Reduce, identity


@dataclass(frozen=True, slots=True)
class Sums:
    """Scalars that can be added."""

    @classmethod
    def zero(cls, device: torch.device | str = "cpu") -> Self:
        """Sums over nothing: all 0."""
        return cls(*(torch.zeros((), dtype=torch.float64, device=device) for _ in fields(cls)))

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def reduced(self, reduce: Reduce = identity) -> Self:
        """Sums over all ranks, with one ``reduce`` call on one short tensor."""
        return type(self)(*reduce(torch.stack([getattr(self, f.name) for f in fields(self)])).unbind())


@dataclass(frozen=True, slots=True)
class PolicySums(Sums):
    """Statistics of a policy loss, summed over tokens where nothing else is said."""

    tokens: Tensor
    ratio: Tensor  # policy / old policy (gspo: the sequence's ratio, at each of its tokens)
    clipped: Tensor  # tokens whose gradient is clipped (cispo: whose weight is clipped)
    policy_kl: Tensor  # k3 between old policy and policy: the size of the update so far
    kl: Tensor  # the chosen estimator against the reference model; 0 without one
    tis_weight: Tensor  # truncated importance weight; 1 if off
    tis_capped: Tensor  # tokens whose weight is capped
    gap: Tensor  # |old − rollout log-probability|, nats; 0 without rollout log-probabilities
    objective: Tensor  # the loss without its KL term, aggregated as the loss is: no sum over tokens

    def means(self) -> dict[str, float]:
        """Means over tokens, by metric name; all 0 without tokens."""
        count = max(float(self.tokens), 1.0)
        names = {"ratio": "ratio", "clipped": "clip_share", "policy_kl": "policy_kl", "kl": "kl"}
        names |= {"tis_weight": "tis_weight", "tis_capped": "tis_capped_share", "gap": "gap"}
        return {metric: float(getattr(self, name)) / count for name, metric in names.items()}


@dataclass(frozen=True, slots=True)
class ValueSums(Sums):
    """Statistics of the value loss, summed over tokens."""

    tokens: Tensor
    loss: Tensor  # ½ max(…) of each token, before aggregation
    clipped: Tensor  # tokens whose clipped error is larger
    value: Tensor
    target: Tensor  # return R
    target_squares: Tensor
    error: Tensor  # R − V
    error_squares: Tensor

    @classmethod
    def of(cls, value_T: Tensor, return_T: Tensor, loss_T: Tensor, clipped_T: Tensor) -> ValueSums:
        """Sums of detached per-token values."""
        value_T, return_T = value_T.double(), return_T.double()
        error_T = return_T - value_T
        columns = (torch.ones_like(value_T), loss_T, clipped_T, value_T, return_T, return_T**2, error_T, error_T**2)
        return cls(*(column.double().sum() for column in columns))

    def explained_variance(self) -> float:
        """``1 − Var(R − V) / Var(R)`` with population variances; 0 if the returns are constant (undefined there)."""
        count = max(float(self.tokens), 1.0)
        of_target = float(self.target_squares) / count - (float(self.target) / count) ** 2
        of_error = float(self.error_squares) / count - (float(self.error) / count) ** 2
        scale = float(self.target_squares) / count
        return 1.0 - max(of_error, 0.0) / of_target if of_target > 1e-12 * max(scale, 1e-12) else 0.0

    def means(self) -> dict[str, float]:
        """Means over tokens, by metric name, and the explained variance; all 0 without tokens."""
        count = max(float(self.tokens), 1.0)
        names = {"loss": "value_loss", "clipped": "value_clip_share", "value": "value_mean", "target": "return_mean"}
        means = {metric: float(getattr(self, name)) / count for name, metric in names.items()}
        return means | {"explained_variance": self.explained_variance()}
