"""Whether what the ranks hold or measured is finite: all of them have to see the same, or those that go on would wait for the
others."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist

from r0.errors import UserError

LOWER = "set a lower learning_rate; the newest checkpoint, if there is one, is good"


def on_any_rank(device: torch.device, *here: bool) -> tuple[bool, ...]:
    """Which of the statements hold on a rank at least; every rank calls it."""
    seen = torch.tensor([float(each) for each in here], device=device)
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return tuple(each > 0 for each in seen.tolist())


def check_figures(step: int, figures: Iterable[float]) -> None:
    """Check what was measured on held-out data after ``step``; all ranks have the same figures, so all of them raise or none.

    Raises:
        UserError: one is NaN or infinite.
    """
    if not all(map(math.isfinite, figures)):
        remedy = LOWER if step else "give another model, or dtype=fp32"
        raise UserError(f"step {step}: what the model says of held-out rows is NaN or infinite; {remedy}")


def finite(model: torch.nn.Module) -> bool:
    """Whether all weights that this rank holds are finite (of weights that ranks share: its part)."""
    parts = (getattr(p, "ds_tensor", p).detach() for p in model.parameters())  # ZeRO-3 has its part there
    held = (part.to_local() if hasattr(part, "to_local") else part for part in parts)  # FSDP's
    return all(bool(part.isfinite().all()) for part in held if part.is_floating_point())
