"""Whether what the ranks hold is finite: all of them have to see the same, or those that go on would wait for the others."""

from __future__ import annotations

import torch
import torch.distributed as dist

LOWER = "set a lower learning_rate; the newest checkpoint, if there is one, is good"


def on_any_rank(device: torch.device, *here: bool) -> tuple[bool, ...]:
    """Which of the statements hold on a rank at least; every rank calls it."""
    seen = torch.tensor([float(each) for each in here], device=device)
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return tuple(each > 0 for each in seen.tolist())


def finite(model: torch.nn.Module) -> bool:
    """Whether all weights that this rank holds are finite (of weights that ranks share: its part)."""
    parts = (getattr(p, "ds_tensor", p).detach() for p in model.parameters())  # ZeRO-3 has its part there
    held = (part.to_local() if hasattr(part, "to_local") else part for part in parts)  # FSDP's
    return all(bool(part.isfinite().all()) for part in held if part.is_floating_point())
