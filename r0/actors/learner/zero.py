"""DeepSpeed engines: creating one for a module, setting its learning rate, and its state as plain tensors.

Gradients accumulate over any number of backward passes until ``step()`` (DeepSpeed's unmanaged accumulation). DeepSpeed averages
over ranks, so a loss that is a sum over all ranks must be multiplied by their number before ``backward``.

The state is read from DeepSpeed's float32 master weights and from the inner AdamW, not through DeepSpeed's own checkpoints,
which are pickles.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import json
import logging
import os
import sys
import warnings
from typing import Any

import torch
from torch import nn

from r0.actors.learner.gradients import GradientSum
from r0.actors.learner.layout import layout
from r0.actors.learner.state_file import State
from r0.actors.memory.states import BUCKET, effective_stage
from r0.errors import UserError
from r0.process import native
from r0.process.device import prepare, with_index
from r0.process.store import hosted_store, joined_store

BETAS = (0.9, 0.999)


def start_distributed(rank: int, world: int, master: str, device: torch.device, timeout_s: float) -> bool:
    """Join the process group (gloo on a CPU, nccl on a GPU), or use the one that this process is already in.

    Returns whether the group was created here; if so, the caller must leave it (``leave_distributed``).

    Args:
        rank: of this process.
        world: number of processes; 1 opens no port.
        master: ``host:port`` of rank 0.
        device: of this process; ``cuda`` without an index is the GPU assigned by Ray, or the first one.
        timeout_s: seconds after which a collective fails if a rank does not join.

    Raises:
        UserError: this process is in a group of another size.
    """
    host, _, port = master.rpartition(":")
    device = with_index(device)
    local = device.index or 0
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(local), MASTER_ADDR=host, MASTER_PORT=port)
    prepare(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if torch.distributed.is_initialized():
        have = torch.distributed.get_world_size()
        if have != world:
            raise UserError(f"this process is in a group of {have} processes, the learner needs {world}; set ray.inline=false")
        return False
    _release_groups()
    backend = "gloo" if device.type == "cpu" else "nccl"
    timeout = datetime.timedelta(seconds=timeout_s)
    store: torch.distributed.Store
    if world == 1:
        store = torch.distributed.HashStore()
    else:
        store = (joined_store if rank else hosted_store)(host, int(port), timeout_s, world)
    torch.distributed.init_process_group(backend, rank=rank, world_size=world, store=store, timeout=timeout)
    return True


def leave_distributed() -> None:
    """Leave the process group (if any), so that this process can join another."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    _release_groups()


def _release_groups() -> None:
    """Drop DeepSpeed's references to groups of a process group that has been destroyed."""
    if "deepspeed" in sys.modules:
        from deepspeed.utils import groups

        groups._release_process_group_references(group=None)


def make_engine(
    module: nn.Module, zero_stage: int, bf16: bool, max_grad_norm: float, weight_decay: float, offload: bool = False
) -> Any:
    """A DeepSpeed engine with AdamW for the parameters that require a gradient; set the learning rate before every step. Its
    ``gradient_sum`` is the ``GradientSum`` of the module.

    ``offload`` (ZeRO 2 and 3) keeps gradients and optimizer in host memory and updates there.
    """
    _silence_deepspeed()
    if not next(module.parameters()).is_cuda:
        native.ready()
    import deepspeed

    stage = effective_stage(zero_stage, bf16)
    if stage == 3:
        for part in module.modules():
            for parameter in getattr(part, "external_parameters", ()):
                deepspeed.zero.register_external_parameter(part, parameter)
    # Fused: one pass over weights and moments. ZeRO 3 passes its partitions one by one, where fusing gains nothing.
    optimizer = torch.optim.AdamW(_decay_groups(module, weight_decay), lr=0.0, betas=BETAS, fused=stage != 3)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": max_grad_norm,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
        "zero_optimization": {"stage": stage, "overlap_comm": False, "reduce_bucket_size": BUCKET},
    }
    if bf16:
        # Immediate: each gradient is added to its float32 sum at once, and its bf16 copy is freed.
        config["bf16"] = {"enabled": True, "immediate_grad_update": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if offload:
        on_gpu = next(module.parameters()).is_cuda  # copies from pinned memory are faster; without a GPU there is none
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
        config["zero_force_ds_cpu_optimizer"] = False  # DeepSpeed's CPU Adam is compiled at start; torch's is fused on CPUs too
    gradients = GradientSum(module)
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints that its native part was built
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)
    engine.gradient_sum = gradients
    if replicated(engine):  # DeepSpeed clips here too, but does not store the norm
        engine.clip_fp32_gradients = functools.partial(_clip, engine, max_grad_norm)
    return engine


def _silence_deepspeed() -> None:
    """Show only warnings of DeepSpeed, and no deprecation warnings about the torch functions it calls."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch\.distributed\.\w+` is deprecated")


def _clip(engine: Any, max_norm: float) -> None:
    engine._global_grad_norm = float(nn.utils.clip_grad_norm_(engine.module.parameters(), max_norm))


def _decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups with weight decay for matrices, and without for biases and norms."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not weight_decay:
        return [{"params": trained, "weight_decay": 0.0}]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_learning_rate(engine: Any, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in engine.basic_optimizer.param_groups:
        group["lr"] = rate


def master_weights(engine: Any) -> list[torch.Tensor]:
    """This rank's share of the float32 weights that AdamW updates, in a fixed order; no copies."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):  # ZeRO 3; ZeRO 1 and 2; ZeRO 1 with bf16
            return list(getattr(optimizer, name))
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def replicated(engine: Any) -> bool:
    """Whether every rank holds all weights and moments (ZeRO 0)."""
    return engine.optimizer is engine.basic_optimizer


def engine_state(engine: Any, rank: int) -> State:
    """Weights and optimizer state of this rank, copied to the CPU, and how parameters lie in them."""
    inner = engine.basic_optimizer.state
    return {
        "masters": [tensor.detach().to("cpu", copy=True) for tensor in master_weights(engine)],
        "adam": [{k: v.detach().to("cpu", copy=True) for k, v in inner[tensor].items()} for tensor in master_weights(engine)],
        "steps": int(engine.global_steps),
        "layout": json.dumps(layout(engine, rank)),
    }


def load_engine_state(engine: Any, state: State) -> None:
    """Restore the state from ``engine_state`` in an engine of the same shape; collective.

    Raises:
        UserError: the shapes differ (another model, number of ranks, ZeRO stage or LoRA rank).
    """
    mine = master_weights(engine)
    if [t.numel() for t in mine] != [t.numel() for t in state["masters"]]:
        raise UserError(
            "the checkpoint's weights have other shapes than this learner's; resume with the model, learner.dtype and "
            "learner.lora of the run that wrote it, or start over with fresh=true"
        )
    inner = engine.basic_optimizer.state
    fused = bool(engine.basic_optimizer.param_groups[0].get("fused"))
    with torch.no_grad():
        moments_of = state.get("adam", [{}] * len(mine))  # none before a first step, where all were skipped
        for tensor, saved, adam in zip(mine, state["masters"], moments_of, strict=True):
            tensor.data.copy_(saved.view(tensor.shape))
            # AdamW's step counter is on the CPU; for the fused kernel it is on the device of the weights.
            for_scalars = tensor.device if fused else "cpu"
            moments = {k: v.view(tensor.shape).to(tensor.device, copy=True) for k, v in adam.items() if v.dim()}
            inner[tensor] = moments | {k: v.to(for_scalars, copy=True) for k, v in adam.items() if not v.dim()}
    engine.global_steps = state["steps"]
    _weights_from_masters(engine.optimizer)


def _weights_from_masters(optimizer: Any) -> None:
    """Copy the master weights into the module's weights."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        persistent = list(optimizer.persistent_parameters)
        if persistent:  # small parameters that ZeRO 3 keeps whole on every rank: drop their old values first
            persistent[0].partition(persistent)
        for number in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        if persistent:
            persistent[0].all_gather(persistent)
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()


def offload_optimizer(engine: Any) -> bool:
    """Move the float32 weights and the optimizer's moments to the CPU if DeepSpeed can; ``reload_optimizer`` moves them back.

    DeepSpeed can with ZeRO 2, and with ZeRO 1 in float32; not with ZeRO 0 or ZeRO 1 in bf16, and with ZeRO 3 only for its own
    Adam.

    Returns whether they have been moved.
    """
    from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum as Part
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    if (
        not isinstance(engine.optimizer, DeepSpeedZeroOptimizer) or engine.optimizer.cpu_offload
    ):  # or the optimizer is always on the CPU
        return False
    pinned = master_weights(engine)[0].is_cuda  # copies from pinned memory are faster; without a GPU there is none
    engine.offload_states(include=[Part.hp_params, Part.optim_states], pin_memory=pinned)
    return True


def reload_optimizer(engine: Any) -> None:
    """Reverse ``offload_optimizer``."""
    engine.reload_states()
