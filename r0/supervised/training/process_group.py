"""The process group of Ray Train's ranks. Its store listens on the address of rank 0's node alone; Ray's listens on every one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch
from ray.train._internal.utils import get_address_and_port
from ray.train.torch import config
from ray.train.torch.config import TorchConfig

from r0.process.store import hosted_store, joined_store


@dataclass
class ProcessGroup(TorchConfig):
    """``TorchConfig`` with r0's store. On a Ray that r0 started, the node's address is the loopback interface's."""

    @property
    def backend_cls(self) -> type:
        """What Ray Train calls on its workers' start and end."""
        return _Backend


class _Backend(config._TorchBackend):
    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        """Let every rank join."""
        host, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(config._set_torch_distributed_env_vars)
        world = len(worker_group)
        arguments = (world, host, port, backend_config.backend, backend_config.timeout_s)
        ray.get([worker_group.execute_single_async(rank, _join, rank, *arguments) for rank in range(world)])


def _join(rank: int, world: int, host: str, port: int, backend: str, timeout_s: float) -> None:
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))  # DeepSpeed and accelerate read them
    store = (joined_store if rank else hosted_store)(host, port, timeout_s, world)
    torch.distributed.init_process_group(
        backend, rank=rank, world_size=world, store=store, timeout=timedelta(seconds=timeout_s)
    )
