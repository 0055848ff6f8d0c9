"""What the learner ranks tell each other outside DeepSpeed."""

from __future__ import annotations

import torch


class Comm:
    """Sums and maxima over the ranks; every rank must call each method equally often.

    Args:
        world: number of ranks; 1 needs no process group.
        device: where NCCL wants the tensors.
    """

    def __init__(self, world: int, device: torch.device):
        self.world = world
        self.device = device

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, same shape and type."""
        return self._reduce(x, torch.distributed.ReduceOp.SUM) if self.world > 1 else x

    def max(self, x: torch.Tensor) -> torch.Tensor:
        """Largest over the ranks, element by element."""
        return self._reduce(x, torch.distributed.ReduceOp.MAX) if self.world > 1 else x

    def _reduce(self, x: torch.Tensor, how: torch.distributed.ReduceOp) -> torch.Tensor:
        sent = x.detach().to(self.device, copy=True)
        torch.distributed.all_reduce(sent, op=how)
        return sent.to(x.device)
