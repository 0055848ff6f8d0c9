"""Policy losses: each is a pure function from ``LossInputs`` to ``LossOutputs``.

Legend: N completions · T completion tokens, concatenated · ``seq_T`` int64, the completion of each token (see layout.py) ·
log-probabilities in nats, of the sampling distribution (logits divided by the temperature).

Each loss is a sum divided by a given denominator: the number of tokens (or completions) of the mini-batch over all
micro-batches and ranks. So the mini-batch can be split in any way between completions, and the partial losses add up to the
same value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from r0.algos.kl import KL_ESTIMATORS, MAX_LOG_RATIO, k3
from r0.algos.layout import at_least_float32, lengths, segment_sum
from r0.algos.sums import PolicySums


class Aggregation(StrEnum):
    """How per-token losses are aggregated."""

    TOKENS = "tokens"  # mean over all tokens (DAPO; Yu et al., 2025): the denominator counts tokens
    SEQUENCES = "sequences"  # mean over each completion's tokens, then over completions (GRPO): it counts completions


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Settings that are constant during a run.

    The ratio is clipped to [1 − clip_low, 1 + clip_high]. ``tis_cap`` 0 turns truncated importance sampling off. ``kl_coef``
    is the weight of the KL *in the loss* (0 if it is in the reward).
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    aggregation: Aggregation = Aggregation.TOKENS
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    tis_cap: float = 0.0


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Any number of whole completions of a mini-batch: a row, a rank's share, or all of it. Only ``logp_T`` has a gradient.

    Raises:
        ValueError: a tensor's shape differs from that of ``seq_T``, or there are tokens and the denominator is not above 0.
    """

    logp_T: Tensor  # policy
    advantage_T: Tensor  # GRPO: advantage_N[seq_T]
    seq_T: Tensor
    completions: int  # N
    denominator: float  # tokens or completions (see Aggregation) of the whole mini-batch, over all ranks
    old_logp_T: Tensor | None = None  # policy before the update; None: the current one, detached (one update per batch)
    rollout_logp_T: Tensor | None = None  # of the rollout engine
    ref_logp_T: Tensor | None = None  # reference model

    def __post_init__(self) -> None:
        if self.seq_T.dim() != 1:
            raise ValueError(f"seq_T has shape {tuple(self.seq_T.shape)}, not [T]")
        for name in ("logp_T", "advantage_T", "old_logp_T", "rollout_logp_T", "ref_logp_T"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape != self.seq_T.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, seq_T {tuple(self.seq_T.shape)}")
        check_denominator(self.denominator, len(self.seq_T))


@dataclass(frozen=True, slots=True)
class LossOutputs:
    """``loss``: scalar with gradient; partial losses add up. ``sums``: statistics over the tokens."""

    loss: Tensor
    sums: PolicySums


def check_denominator(denominator: float, tokens: int) -> None:
    """Refuse a denominator that is not above 0; without tokens there is nothing to divide.

    Raises:
        ValueError: there are tokens, and the denominator is not above 0.
    """
    if tokens and not denominator > 0:
        raise ValueError(f"denominator {denominator} is not above 0")


def mean_of_tokens(loss_T: Tensor, weight_T: Tensor, denominator: float) -> Tensor:
    """The weighted sum, divided by the denominator; 0 (with gradient 0) without tokens."""
    return (loss_T * weight_T).sum() / (denominator if denominator > 0 else 1.0)


def token_weights(seq_T: Tensor, completions: int, aggregation: Aggregation, dtype: torch.dtype) -> Tensor:
    """Weight of each token in the sum: 1, or 1 / length of its completion."""
    if Aggregation(aggregation) is Aggregation.TOKENS:
        return torch.ones(seq_T.shape, dtype=dtype, device=seq_T.device)
    return lengths(seq_T, completions).to(dtype).reciprocal()[seq_T]


def tis_weights(old_logp_T: Tensor, rollout_logp_T: Tensor, cap: float) -> Tensor:
    """``min(π_old / π_rollout, cap)``, detached; corrects for the difference between rollout and learner policy (Yao et al.,
    2025).
    """
    log_ratio_T = (old_logp_T - rollout_logp_T).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return log_ratio_T.exp().clamp(max=cap)


@dataclass(frozen=True, slots=True)
class _Surrogate:
    """A loss before importance weights, KL and aggregation, with detached values for the statistics."""

    loss_T: Tensor
    ratio_T: Tensor
    clipped_T: Tensor


def _log_ratio(logp_T: Tensor, old_T: Tensor) -> Tensor:
    return (logp_T - old_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _clip(ratio_T: Tensor, advantage_T: Tensor, settings: LossSettings) -> _Surrogate:
    """``−min(r A, clip(r) A)``: no gradient where the ratio is beyond the clip in the advantage's direction."""
    held_T = ratio_T.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    loss_T = torch.maximum(-ratio_T * advantage_T, -held_T * advantage_T)
    above_T = (ratio_T > 1 + settings.clip_high) & (advantage_T > 0)
    below_T = (ratio_T < 1 - settings.clip_low) & (advantage_T < 0)
    return _Surrogate(loss_T, ratio_T.detach(), above_T | below_T)


def _ppo_clip(logp_T: Tensor, old_T: Tensor, advantage_T: Tensor, inputs: LossInputs, settings: LossSettings) -> _Surrogate:
    return _clip(_log_ratio(logp_T, old_T).exp(), advantage_T, settings)


def _gspo(logp_T: Tensor, old_T: Tensor, advantage_T: Tensor, inputs: LossInputs, settings: LossSettings) -> _Surrogate:
    seq_T = inputs.seq_T
    difference_T = (logp_T - old_T).detach()
    length_N = lengths(seq_T, inputs.completions).clamp(min=1)
    mean_N = segment_sum(difference_T, seq_T, inputs.completions) / length_N
    # The value is the sequence's ratio; the gradient flows to each token through its own log-probability.
    log_ratio_T = mean_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).to(logp_T.dtype)[seq_T] + (logp_T - logp_T.detach())
    return _clip(log_ratio_T.exp(), advantage_T, settings)


def _cispo(logp_T: Tensor, old_T: Tensor, advantage_T: Tensor, inputs: LossInputs, settings: LossSettings) -> _Surrogate:
    ratio_T = _log_ratio(logp_T, old_T).exp().detach()
    held_T = ratio_T.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    return _Surrogate(-held_T * advantage_T * logp_T, ratio_T, held_T != ratio_T)


def _finish(
    surrogate: Callable[[Tensor, Tensor, Tensor, LossInputs, LossSettings], _Surrogate],
    inputs: LossInputs,
    settings: LossSettings,
) -> LossOutputs:
    """Importance weights, KL, aggregation and statistics, shared by all losses."""
    logp_T = at_least_float32(inputs.logp_T)
    given_T = logp_T if inputs.old_logp_T is None else inputs.old_logp_T
    old_T = given_T.detach().to(logp_T.dtype)
    found = surrogate(logp_T, old_T, inputs.advantage_T.detach().to(logp_T.dtype), inputs, settings)
    loss_T, ones_T, zeros_T = found.loss_T, torch.ones_like(old_T), torch.zeros_like(old_T)
    tis_T, capped_T, gap_T, kl_T = ones_T, zeros_T, zeros_T, zeros_T
    if inputs.rollout_logp_T is not None:
        rollout_T = inputs.rollout_logp_T.detach().to(logp_T.dtype)
        gap_T = (old_T - rollout_T).abs()
        if settings.tis_cap > 0:
            tis_T = tis_weights(old_T, rollout_T, settings.tis_cap)
            capped_T = tis_T >= settings.tis_cap
            loss_T = tis_T * loss_T
    weight_T = token_weights(inputs.seq_T, inputs.completions, settings.aggregation, logp_T.dtype)
    objective = mean_of_tokens(loss_T.detach(), weight_T, inputs.denominator)
    if inputs.ref_logp_T is not None:
        kl_T = KL_ESTIMATORS[settings.kl_estimator](logp_T, inputs.ref_logp_T.detach().to(logp_T.dtype))
        if settings.kl_coef > 0:
            loss_T = loss_T + settings.kl_coef * kl_T
    moved_T = k3(old_T, logp_T.detach())
    columns = (ones_T, found.ratio_T, found.clipped_T, moved_T, kl_T.detach(), tis_T, capped_T, gap_T)
    sums = PolicySums(*(column.double().sum() for column in (*columns, objective)))
    return LossOutputs(mean_of_tokens(loss_T, weight_T, inputs.denominator), sums)


def ppo_clip(inputs: LossInputs, settings: LossSettings) -> LossOutputs:
    """Token-level clipped surrogate (Schulman et al., 2017, eq. 7), with separate lower and upper clips (Yu et al., 2025, DAPO).

    ``−min(r_t A_t, clip(r_t, 1 − clip_low, 1 + clip_high) A_t)``, ``r_t = π(y_t) / π_old(y_t)``.
    """
    return _finish(_ppo_clip, inputs, settings)


def gspo(inputs: LossInputs, settings: LossSettings) -> LossOutputs:
    """The same surrogate with one ratio per completion, the geometric mean of its token ratios (Zheng et al., 2025, GSPO).

    ``s = exp(mean_t(log π/π_old))``, used at each token as ``sg[s] · π(y_t) / sg[π(y_t)]`` (the paper's GSPO-token, eq. 14),
    so advantages may differ between tokens. ``s`` varies far less than token ratios: the paper clips at 3e-4 and 4e-4.
    """
    return _finish(_gspo, inputs, settings)


def cispo(inputs: LossInputs, settings: LossSettings) -> LossOutputs:
    """``−sg[clip(r_t, 1 − clip_low, 1 + clip_high)] A_t log π(y_t)``: every token keeps its gradient (MiniMax-M1, 2025, CISPO).

    ``clip_low`` ≥ 1 removes the lower bound, as in the paper's experiments.
    """
    return _finish(_cispo, inputs, settings)


POLICY_LOSSES: dict[str, Callable[[LossInputs, LossSettings], LossOutputs]] = {"ppo_clip": ppo_clip, "gspo": gspo, "cispo": cispo}
"""By configuration name."""
