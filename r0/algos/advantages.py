"""Advantages from one reward per completion, without a critic.

Legend: N completions · G groups (prompts) of the batch · ``group_N`` int64, arbitrary numbers, equal for completions of one
prompt; per-group results are in ascending order of these numbers. Computed in float64, returned in the dtype of ``reward_N``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from r0.algos.layout import Reduce, identity
from r0.algos.stats import whiten
from r0.errors import UserError

SPREAD_TOLERANCE = 1e-6  # rewards of one group that differ by at most this are equal: rounding must not be scaled up to ±1
STD_EPS = 1e-4  # added to a group's standard deviation, so that negligible spreads give small advantages


@dataclass(frozen=True, slots=True)
class _Groups:
    """Statistics of each completion's own group."""

    size_N: Tensor
    centred_N: Tensor  # reward − mean of its group; exactly 0 in a group without spread
    std_N: Tensor  # divided by size − 1; 0 in a group of one
    equal_G: Tensor  # bool: no spread


def _groups(reward_N: Tensor, group_N: Tensor, tolerance: float = SPREAD_TOLERANCE) -> _Groups:
    if reward_N.shape != group_N.shape or reward_N.dim() != 1:
        raise ValueError(f"reward_N {tuple(reward_N.shape)} and group_N {tuple(group_N.shape)} must both have shape [N]")
    if not bool(torch.isfinite(reward_N).all()):
        bad = int((~torch.isfinite(reward_N)).nonzero()[0])
        raise UserError(f"completion {bad} of the batch has reward {float(reward_N[bad])}; a reward must return finite numbers")
    reward_N = reward_N.detach().double()
    numbers_G, index_N = group_N.unique(return_inverse=True)
    zeros_G = torch.zeros(len(numbers_G), dtype=torch.float64, device=reward_N.device)
    size_G = zeros_G.index_add(0, index_N, torch.ones_like(reward_N))
    mean_G = zeros_G.index_add(0, index_N, reward_N) / size_G
    centred_N = reward_N - mean_G[index_N]
    std_G = (zeros_G.index_add(0, index_N, centred_N.square()) / (size_G - 1).clamp(min=1)).sqrt()
    high_G = zeros_G.scatter_reduce(0, index_N, reward_N, "amax", include_self=False)
    low_G = zeros_G.scatter_reduce(0, index_N, reward_N, "amin", include_self=False)
    equal_G = high_G - low_G <= tolerance
    return _Groups(size_G[index_N], torch.where(equal_G[index_N], 0.0, centred_N), std_G[index_N], equal_G)


def zero_spread(reward_N: Tensor, group_N: Tensor, tolerance: float = SPREAD_TOLERANCE) -> Tensor:
    """Whether all rewards of a group are equal within ``tolerance``: ``equal_G`` bool. Such a group gives no gradient."""
    return _groups(reward_N, group_N, tolerance).equal_G


def grpo(reward_N: Tensor, group_N: Tensor, reduce: Reduce = identity, eps: float = STD_EPS) -> Tensor:
    """``(r − mean) / (std + eps)`` within the group (Shao et al., 2024, DeepSeekMath, §4.1.2).

    The paper does not specify the divisor of the variance; here it is size − 1, torch's default. Groups without spread, and
    groups of one, get exactly 0.
    """
    groups = _groups(reward_N, group_N)
    return (groups.centred_N / (groups.std_N + eps)).to(reward_N.dtype)


def dr_grpo(reward_N: Tensor, group_N: Tensor, reduce: Reduce = identity) -> Tensor:
    """``r − mean`` within the group, without division, so that easy and hard prompts have equal weight (Liu et al., 2025, Dr.
    GRPO).
    """
    return _groups(reward_N, group_N).centred_N.to(reward_N.dtype)


def rloo(reward_N: Tensor, group_N: Tensor, reduce: Reduce = identity) -> Tensor:
    """``r`` minus the mean of the *other* completions of its group (Ahmadian et al., 2024). A group of one gets 0."""
    groups = _groups(reward_N, group_N)
    # r − (S − r)/(n−1) = (r − S/n) · n/(n−1)
    return (groups.centred_N * groups.size_N / (groups.size_N - 1).clamp(min=1)).to(reward_N.dtype)


def reinforce_pp(reward_N: Tensor, group_N: Tensor, reduce: Reduce = identity) -> Tensor:
    """``(r − mean) / std`` over all completions of the batch on all ranks (Hu, 2025, REINFORCE++), with population moments.

    Groups are ignored. A batch whose rewards are all equal gets 0 (up to rounding in float64).
    """
    _groups(reward_N, group_N)  # for its checks only
    return whiten(reward_N.double(), reduce).to(reward_N.dtype)


ADVANTAGES: dict[str, Callable[[Tensor, Tensor, Reduce], Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
}
"""By configuration name: ``ADVANTAGES[name](reward_N, group_N, reduce) -> advantage_N``. Only reinforce_pp uses ``reduce``."""
