"""Checks that all gradients of an optimizer update are finite before any weight changes.

DeepSpeed computes the norm only within its step, and in some ZeRO stages it updates even if the norm is not finite. So the norms
of the gradients are accumulated while they are computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LIMIT = 1e18  # of a norm: the square of a larger one may exceed float32


class GradientSum:
    """The sum of the norms of a module's gradients, over all backward passes since the last ``take``.

    The norm of the whole gradient is at most the sum of this over all ranks. It is NaN or infinite where a gradient is.

    Args:
        module: parameters that require a gradient are watched. DeepSpeed takes gradients away as soon as they are there, so this
            is made before its engine.
    """

    def __init__(self, module: nn.Module):
        self._total: Tensor | None = None
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._add)

    def _add(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            norm = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
            self._total = norm if self._total is None else self._total + norm

    def take(self, device: torch.device) -> Tensor:
        """The sum so far, as a scalar tensor without synchronization; resets it to 0."""
        total, self._total = self._total, None
        return torch.zeros((), device=device) if total is None else total


def drop_gradients(engine: Any) -> None:
    """End an update of a DeepSpeed engine without applying it, so that no weight and no moment changes; collective.

    DeepSpeed's own step clears what it holds in every stage; only the optimizer inside does nothing.
    """
    optimizer = engine.basic_optimizer
    optimizer.step = lambda *_, **__: None
    try:
        engine.step()
    finally:
        del optimizer.step
