"""Estimators of KL(policy ‖ reference) from sampled tokens (Schulman, 2020, "Approximating KL divergence").

Legend: N completions · T completion tokens, concatenated · log-probabilities in nats, of the sampling distribution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from r0.algos.layout import segment_sum

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to ± this before an exponential (e^20 ≈ 4.9e8): finite in float32, no gradient beyond."""


def k1(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """``log π/π_ref``: unbiased, can be negative. As a loss its expected gradient is 0, so it belongs in the reward."""
    return logp_T - ref_logp_T


def k2(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """``½ (log π/π_ref)²``: biased, never negative; as a loss its on-policy gradient is that of the KL."""
    return 0.5 * (logp_T - ref_logp_T).square()


def k3(logp_T: Tensor, ref_logp_T: Tensor) -> Tensor:
    """``π_ref/π − 1 − log π_ref/π``: unbiased, never negative, low variance; log-ratio clamped to ±``MAX_LOG_RATIO``.

    One token contributes at most e^20 − 21 ≈ 4.85e8 (where the policy gives it at most e^−20 of the reference's probability), so
    a single such token can outweigh a whole batch; in the other direction at most 19.
    """
    log_ratio_T = (ref_logp_T - logp_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(log_ratio_T) - log_ratio_T  # expm1 is accurate near 0, where the estimate is quadratic


KL_ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""By configuration name: ``KL_ESTIMATORS[name](logp_T, ref_logp_T) -> kl_T``."""


def kl_penalised(reward_N: Tensor, kl_T: Tensor, seq_T: Tensor, kl_coef: float) -> Tensor:
    """``r − kl_coef · Σ kl`` over each completion's tokens: the KL in the reward, for methods without a critic; detached."""
    return reward_N.detach() - kl_coef * segment_sum(kl_T.detach(), seq_T, len(reward_N)).to(reward_N.dtype)
