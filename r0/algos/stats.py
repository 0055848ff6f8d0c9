"""Means and variances that do not depend on how tokens are split over calls and ranks.

Legend: X any shape. All sums are float64 scalars; variances are sample variances (divided by the count − 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r0.algos.layout import Reduce, identity

EPS = 1e-8  # added to a variance before its square root, as in Ziegler et al. (2019)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares. Moments can be added; ``reduced`` adds them over ranks."""

    count: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, x_X: Tensor) -> Moments:
        """Moments of all elements of ``x_X`` (which may be empty)."""
        wide = x_X.detach().double()
        return cls(torch.tensor(wide.numel(), dtype=torch.float64, device=wide.device), wide.sum(), wide.square().sum())

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def reduced(self, reduce: Reduce = identity) -> Moments:
        """Moments over all ranks: one call of ``reduce`` with a tensor of three."""
        count, total, squares = reduce(torch.stack([self.count, self.total, self.squares])).unbind()
        return Moments(count, total, squares)

    @property
    def mean(self) -> Tensor:
        """Mean; 0 if empty."""
        return self.total / self.count.clamp(min=1)

    @property
    def variance(self) -> Tensor:
        """Sample variance, never negative; 0 of fewer than two elements."""
        return (self.squares - self.total * self.mean).clamp(min=0) / (self.count - 1).clamp(min=1)


def whiten(x_X: Tensor, reduce: Reduce = identity, shift_mean: bool = True, eps: float = EPS) -> Tensor:
    """``(x − mean) / sqrt(variance + eps)`` with the moments over all ranks; same shape and dtype, detached. The variance is the
    sample variance, as TRL's and verl's.

    ``shift_mean=False`` adds the mean back afterwards, so only the scale changes (Ziegler et al., 2019, for rewards).
    """
    moments = Moments.of(x_X).reduced(reduce)
    white = (x_X.detach().double() - moments.mean) / (moments.variance + eps).sqrt()
    return (white if shift_mean else white + moments.mean).to(x_X.dtype)
