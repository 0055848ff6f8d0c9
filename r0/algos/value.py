"""The critic's loss.

Legend: N completions · T completion tokens, concatenated · ``seq_T`` int64, the completion of each token (see layout.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r0.algos.layout import at_least_float32
from r0.algos.losses import Aggregation, check_denominator, mean_of_tokens, token_weights
from r0.algos.sums import ValueSums


@dataclass(frozen=True, slots=True)
class ValueInputs:
    """Inputs of the critic's loss for whole completions (any part of a mini-batch).

    ``value_T`` has the gradient. ``denominator`` is the mini-batch's number of tokens (or of completions, with
    ``Aggregation.SEQUENCES``) over all rows and ranks.
    """

    value_T: Tensor
    old_value_T: Tensor
    return_T: Tensor
    seq_T: Tensor
    completions: int
    denominator: float

    def __post_init__(self) -> None:
        shape = self.seq_T.shape
        for name in ("value_T", "old_value_T", "return_T"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, seq_T {tuple(shape)}")
        check_denominator(self.denominator, len(self.seq_T))


def value_loss(
    inputs: ValueInputs, cliprange_value: float, aggregation: Aggregation = Aggregation.TOKENS
) -> tuple[Tensor, ValueSums]:
    """``½ max((V − R)², (clip(V, V_old ± cliprange_value) − R)²)``, summed over the tokens and divided by the denominator.

    The clipped value loss of PPO's first implementation (Schulman et al., 2017). Not multiplied by ``vf_coef``.

    Returns:
        The loss (scalar, with gradient; parts of a mini-batch add up to the whole) and its statistics as sums.
    """
    value_T = at_least_float32(inputs.value_T)
    old_T, return_T = inputs.old_value_T.detach().to(value_T.dtype), inputs.return_T.detach().to(value_T.dtype)
    clipped_T = torch.clamp(value_T, old_T - cliprange_value, old_T + cliprange_value)
    plain_T, held_T = (value_T - return_T).square(), (clipped_T - return_T).square()
    loss_T = 0.5 * torch.maximum(plain_T, held_T)
    weight_T = token_weights(inputs.seq_T, inputs.completions, aggregation, loss_T.dtype)
    sums = ValueSums.of(value_T.detach(), return_T, loss_T.detach(), held_T.detach() > plain_T.detach())
    return mean_of_tokens(loss_T, weight_T, inputs.denominator), sums
