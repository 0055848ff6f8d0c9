"""Communication between learner ranks outside DeepSpeed."""

from __future__ import annotations

import torch


class Comm:
    """Sums and maxima over the ranks. The methods are collective.

    Args:
        world: number of ranks; 1 needs no process group.
        device: the device on which tensors are reduced.
    """

    def __init__(self, world: int, device: torch.device):
        self.world = world
        self.device = device

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over the ranks, of the same shape and dtype."""
        return self._reduce(x, torch.distributed.ReduceOp.SUM) if self.world > 1 else x

    def max(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise maximum over the ranks."""
        return self._reduce(x, torch.distributed.ReduceOp.MAX) if self.world > 1 else x

    def _reduce(self, x: torch.Tensor, how: torch.distributed.ReduceOp) -> torch.Tensor:
        sent = x.detach().to(self.device, copy=True)
        torch.distributed.all_reduce(sent, op=how)
        return sent.to(x.device)
