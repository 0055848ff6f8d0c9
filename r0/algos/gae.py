"""PPO's advantages and returns from scores and values.

Legend: N completions · T completion tokens, concatenated · ``seq_T`` int64, the completion of each token (see layout.py).
``value_T`` is the critic's estimate at the state in which token t is chosen (the position before it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r0.algos.layout import Reduce, at_least_float32, discounted_sum, identity, is_last, shift_left
from r0.algos.stats import whiten


def token_rewards(score_N: Tensor, kl_T: Tensor | None, seq_T: Tensor, kl_coef: float) -> Tensor:
    """``−kl_coef · kl`` at each token, plus the completion's score at its last token (Ziegler et al., 2019, eq. 2), detached.

    Args:
        score_N: reward of each completion.
        kl_T: k1 of each token against the reference model; None without one.
        seq_T: completion of each token.
        kl_coef: weight of the KL.
    """
    reward_T = torch.where(is_last(seq_T), score_N.detach()[seq_T], 0.0)
    return reward_T if kl_T is None else reward_T - kl_coef * kl_T.detach().to(reward_T.dtype)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Advantages for the policy and returns for the critic, both [T], detached."""

    advantage_T: Tensor
    return_T: Tensor


def gae(
    reward_T: Tensor,
    value_T: Tensor,
    seq_T: Tensor,
    gamma: float,
    lam: float,
    *,
    whiten_rewards: bool = False,
    whiten_advantages: bool = True,
    reduce: Reduce = identity,
) -> Estimate:
    """Generalized advantage estimation (Schulman et al., 2016, eq. 16) over each completion's tokens.

    ``δ_t = r_t + γ V_{t+1} − V_t`` with value 0 after the last token, ``A_t = Σ_k (γλ)^k δ_{t+k}``, ``return_t = A_t + V_t``.

    Args:
        reward_T: rewards of ``token_rewards``.
        value_T: the critic's values when the batch was sampled.
        seq_T: completion of each token.
        gamma: discount γ.
        lam: λ.
        whiten_rewards: first scale the rewards to variance 1, keeping their mean.
        whiten_advantages: finally normalize the advantages to mean 0 and variance 1 (returns are computed before).
        reduce: sums over ranks; called once per whitening, also on a rank without tokens.
    """
    reward_T, value_T = at_least_float32(reward_T.detach()), at_least_float32(value_T.detach())
    if whiten_rewards:
        reward_T = whiten(reward_T, reduce, shift_mean=False)
    delta_T = reward_T + gamma * shift_left(value_T, seq_T) - value_T
    advantage_T = discounted_sum(delta_T, seq_T, gamma * lam)
    return_T = advantage_T + value_T
    return Estimate(whiten(advantage_T, reduce) if whiten_advantages else advantage_T, return_T)
