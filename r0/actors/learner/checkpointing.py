"""``gradient_checkpointing=auto``: whether a learner rank recomputes activations in the backward pass."""

from __future__ import annotations

import logging

import torch

from r0.actors.memory.fit import choose_checkpointing
from r0.actors.memory.shape import ModelShape
from r0.config import RLConfig

log = logging.getLogger(__name__)


def decide_checkpointing(config: RLConfig, model_path: str, device: torch.device) -> RLConfig:
    """The configuration with ``gradient_checkpointing`` true or false.

    ``auto`` is false on a CPU. On a GPU it is true if the activations of a full row do not fit, by the estimates of
    ``r0.actors.memory`` and the memory that is free now; so call it before the rank loads anything. All ranks get the same
    decision, because ZeRO 3 gathers weights again when a layer is recomputed.
    """
    if config.gradient_checkpointing != "auto":
        return config
    chosen = device.type == "cuda" and _needed(config, model_path, torch.cuda.mem_get_info(device)[0])
    if config.learner.ranks > 1 and torch.distributed.is_initialized():
        votes = torch.tensor(float(chosen), device=device)
        torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
        chosen = bool(votes)
    return config.model_copy(update={"gradient_checkpointing": chosen})


def _needed(config: RLConfig, model_path: str, free: int) -> bool:
    from transformers import AutoConfig

    try:
        shape = ModelShape.of(AutoConfig.from_pretrained(model_path).to_dict())
    except (KeyError, OSError, ValueError):  # unknown layout: no estimate; loading reports what is wrong
        return True
    chosen = choose_checkpointing(config, shape, free)
    log.info("gradient checkpointing is %s: %.1f GiB are free", "on" if chosen else "off", free / 2**30)
    return chosen
