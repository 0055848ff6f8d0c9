"""The data layout of r0/algos: completions concatenated on one token axis, without padding.

Legend: N completions · T completion tokens of all N, concatenated · ``seq_T`` int64, the completion (0 … N−1) of each token.
The tokens of one completion are contiguous and in order. A call receives whole completions only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over the ranks. Collective: each rank must call it equally often, including ranks without tokens."""


def identity(x: Tensor) -> Tensor:
    """The ``Reduce`` function of a single rank."""
    return x


def lengths(seq_T: Tensor, completions: int) -> Tensor:
    """Number of tokens of each completion: ``length_N`` int64 (0 for an empty one)."""
    ones_T = torch.ones_like(seq_T)
    return torch.zeros(completions, dtype=seq_T.dtype, device=seq_T.device).index_add(0, seq_T, ones_T)


def segment_sum(x_T: Tensor, seq_T: Tensor, completions: int) -> Tensor:
    """Sum of ``x_T`` over each completion: ``sum_N``; accumulated in float64, returned in the dtype of ``x_T``."""
    zeros_N = torch.zeros(completions, dtype=torch.float64, device=x_T.device)
    return zeros_N.index_add(0, seq_T, x_T.double()).to(x_T.dtype)


def is_last(seq_T: Tensor) -> Tensor:
    """Whether each token is the last of its completion: ``last_T`` bool."""
    last_T = torch.ones_like(seq_T, dtype=torch.bool)
    last_T[:-1] = seq_T[1:] != seq_T[:-1]
    return last_T


def shift_left(x_T: Tensor, seq_T: Tensor) -> Tensor:
    """``x`` of the next token of the same completion; 0 after the last token."""
    next_T = torch.zeros_like(x_T)
    next_T[:-1] = torch.where(seq_T[1:] == seq_T[:-1], x_T[1:], 0.0)
    return next_T


def discounted_sum(x_T: Tensor, seq_T: Tensor, discount: float) -> Tensor:
    """``y_t = Σ_k discount^k · x_{t+k}`` over the rest of the completion.

    Computed by doubling: after round j each token holds the sum over its next 2^j tokens. This takes log2(T) vector
    operations; the usual reverse scan takes as many steps as the longest completion has tokens.
    """
    span, factor, y_T = 1, discount, x_T
    while span < len(seq_T):
        same = seq_T[span:] == seq_T[:-span]  # completions are contiguous, so equal ids mean the whole span is one completion
        y_T = torch.cat([y_T[:-span] + factor * torch.where(same, y_T[span:], 0.0), y_T[-span:]])
        span, factor = 2 * span, factor * factor
    return y_T


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; other dtypes are unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
