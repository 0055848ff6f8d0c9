"""Advantages without a critic, from one reward per completion (``reinforce_pp``: per token).

Legend: N completions · G groups (prompts) of the batch · ``group_N`` int64, arbitrary numbers, equal for completions of one
prompt; per-group results are in ascending order of these numbers. Computed in float64, returned in the dtype of ``reward_N``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from r0.algos.layout import Reduce, discounted_sum, identity
from r0.algos.stats import whiten
from r0.errors import UserError
from r0.records import SPREAD_TOLERANCE

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


def reinforce_pp(reward_T: Tensor, seq_T: Tensor, reduce: Reduce = identity) -> Tensor:
    """``(R_t − mean) / std`` over all *tokens* of the batch on all ranks (Hu, 2025, REINFORCE++): ``advantage_T``.

    ``R_t`` is the sum of the completion's rewards from token t on (discount 1). So long completions count more in the mean, and a
    KL in the reward counts at the tokens before it only. A batch whose rewards are all equal gets 0 (up to rounding in float64).

    Args:
        reward_T: rewards of ``gae.token_rewards``.
        seq_T: completion of each token.
        reduce: sums over ranks; called once, also on a rank without tokens.
    """
    return whiten(discounted_sum(reward_T.detach().double(), seq_T, 1.0), reduce).to(reward_T.dtype)


def reinforce_pp_completions(reward_N: Tensor, group_N: Tensor, reduce: Reduce = identity) -> Tensor:
    """``(r − mean) / std`` over all *completions* of the batch on all ranks: REINFORCE++ without a weight by length.

    Groups are ignored. A batch whose rewards are all equal gets 0 (up to rounding in float64).
    """
    _groups(reward_N, group_N)  # for its checks only
    return whiten(reward_N.double(), reduce).to(reward_N.dtype)


ADVANTAGES: dict[str, Callable[[Tensor, Tensor, Reduce], Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_pp_completions": reinforce_pp_completions,
}
"""By configuration name: ``ADVANTAGES[name](reward_N, group_N, reduce) -> advantage_N``. Only reinforce_pp_completions uses
``reduce``. ``reinforce_pp`` is none of them: it is of tokens."""
