"""Where the processes of a weight transfer meet, what they agree on, and the process group that they form there."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

from r0.actors.sync.channels import TransferError, first_line
from r0.process.store import hosted_store, joined_store


@dataclass(frozen=True)
class Rendezvous:
    """Address and settings of a transfer group; plain data that is sent to the receivers."""

    address: str
    port: int
    rank: int  # of the receiver's first process
    world: int
    deadline_s: float
    bucket_bytes: int
    ring: str  # path of the ring buffer in the sender's shared memory; empty: none
    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]

    def info(self) -> dict[str, Any]:
        """As the argument of ``init_weight_transfer_engine``."""
        return asdict(self)


def host_store(address: str, deadline_s: float) -> TCPStore:
    """The rendezvous store of a group, on a free port of this process (``.port``)."""
    return hosted_store(address, 0, deadline_s)


def join(rendezvous: Rendezvous, rank: int, store: TCPStore | None = None) -> ProcessGroupGloo:
    """Join the process group.

    Raises:
        TransferError: not all processes joined within the deadline.
    """
    timeout = timedelta(seconds=rendezvous.deadline_s)
    try:
        if store is None:
            store = joined_store(rendezvous.address, rendezvous.port, rendezvous.deadline_s)
        options = ProcessGroupGloo._Options()
        options._timeout = timeout
        options._threads = 2  # two buckets in flight
        # The interface that reaches the store; the host's name may resolve to another one.
        options._devices = [ProcessGroupGloo.create_device(hostname=_own_address(rendezvous.address, rendezvous.port))]
        return ProcessGroupGloo(PrefixStore("r0_weights", store), rank, rendezvous.world, options)
    except RuntimeError as error:  # includes torch's DistError
        raise TransferError(
            f"weight transfer: {rendezvous.world} processes did not meet at {rendezvous.address}:{rendezvous.port} "
            f"within {rendezvous.deadline_s:g} s (rank {rank}): {first_line(error)}"
        ) from error


def _own_address(address: str, port: int) -> str:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))  # sends nothing, only selects a route
        return str(probe.getsockname()[0])
