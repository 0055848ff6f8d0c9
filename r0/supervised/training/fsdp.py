"""PyTorch's FSDP (``fully_shard``) in transformers' Trainer, through accelerate; on CPUs it must be enabled explicitly."""

from __future__ import annotations

from typing import Any

from accelerate.state import DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from transformers import Trainer


def shard(trainer: Trainer, model: nn.Module) -> None:
    """Make ``trainer`` shard the weights of each layer of ``model`` over the ranks, and the remaining weights together.

    Call it before training. ``model`` is the transformer itself, because sentence-transformers' wrapper does not name the layers.
    Accelerate enables FSDP on accelerators only and silently falls back to plain data parallelism; gloo supports all that FSDP
    needs.
    """
    state: Any = trainer.accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        # Both are shared: each new AcceleratorState copies the PartialState.
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if state.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(state.mixed_precision)
        trainer.is_fsdp_enabled = True
    names = {type(module).__name__ for module in model.modules()}
    state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(names & set(getattr(model, "_no_split_modules", None) or ()))
