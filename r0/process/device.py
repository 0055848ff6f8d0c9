"""The device a process computes on. Importing this module does not import torch."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from r0.process.gpus import cuda_available

if TYPE_CHECKING:
    import torch


def process_device(gpus: float | None = None) -> torch.device:
    """The CPU, or the GPU of this process with its index.

    Args:
        gpus: GPUs that the configuration gives this process; 0 means the CPU, even if torch sees GPUs. None: not specified.

    Raises:
        UserError: there is a GPU, but its driver is too old for this torch.
    """
    import torch

    assigned = _assigned_by_ray()
    # RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 leaves the node's GPUs visible to a worker that Ray gave none.
    if gpus == 0 or assigned == [] or not cuda_available():
        return torch.device("cpu")
    return torch.device("cuda", _index(assigned))


def with_index(device: torch.device) -> torch.device:
    """``cuda`` becomes ``cuda:N``, the GPU of this process: ``torch.cuda.set_device`` refuses a device without an index."""
    import torch

    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", _index(_assigned_by_ray()))


def prepare(device: torch.device) -> None:
    """Configure DeepSpeed (which must not be imported yet) and torch's attention for the device of this process."""
    os.environ["DS_ACCELERATOR"] = device.type
    if device.type == "cuda":
        avoid_cudnn_attention()


def avoid_cudnn_attention() -> None:
    """Disable cuDNN's attention in this process.

    On Hopper and Blackwell torch prefers it, and cuDNN builds an execution plan for every new combination of shapes and strides.
    The lengths of r0's rows nearly always differ, and a plan takes up to half a second (pytorch sdp_utils.cpp and MHA.cpp).
    ``TORCH_CUDNN_SDPA_DEPRIORITIZED`` (environment.py) has the same effect, but only in processes that inherit it.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def _assigned_by_ray() -> list[str] | None:
    """Ids of the GPUs that Ray assigned to this worker; None in a process that is not a Ray actor."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return None
    return sorted(str(name) for name in ray.get_gpu_ids())


def _index(assigned: list[str] | None) -> int:
    """Index of the first assigned GPU among those that torch sees.

    Ray makes only a worker's own GPUs visible to it, unless RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES is set.
    """
    if not assigned:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return int(assigned[0]) if assigned[0].isdigit() else 0
    names = [name.strip() for name in visible.split(",")]
    return names.index(assigned[0]) if assigned[0] in names else 0
