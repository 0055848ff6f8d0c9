"""PyTorch's FSDP (``fully_shard``) under transformers' Trainer, through accelerate: on GPUs as it is, on CPUs after a nudge."""

from __future__ import annotations

from typing import Any

from accelerate.state import DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from transformers import Trainer


def shard(trainer: Trainer, model: nn.Module) -> None:
    """Make ``trainer`` split the weights of each layer of ``model`` over the ranks, and the rest of them together.

    Before training. ``model`` is the transformer itself: what sentence-transformers wraps around it names no layers. Accelerate
    turns FSDP on for accelerators only and falls back to plain data parallelism without a word; gloo does all it needs.
    """
    state: Any = trainer.accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        # Both are shared objects, and each new look at the first copies the second.
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if state.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(state.mixed_precision)
        trainer.is_fsdp_enabled = True
    names = {type(module).__name__ for module in model.modules()}
    state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(names & set(getattr(model, "_no_split_modules", None) or ()))
