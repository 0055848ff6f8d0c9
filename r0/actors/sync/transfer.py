"""Moving all weights of a model from one process to others in buckets. Pure torch: neither vLLM nor Ray.

The sender is rank 0 of a process group of its own (never the default group), the receivers are ranks 1 and up. Both sides cut the
same list of parameters into the same buckets: whole parameters, at most ``bucket_bytes`` together, or one parameter alone that is
larger. Two buckets are in flight: while one travels, the next is packed (sender) and the previous one
is loaded (receiver). Weights travel in the sender's dtype; a receiver with another rounds to nearest when it copies.
"""

from __future__ import annotations

import mmap
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import torch
from torch.distributed import AllreduceOptions, PrefixStore, ProcessGroupGloo, ReduceOp, TCPStore
from torch.multiprocessing.reductions import StorageWeakRef

from r0.actors.sync.channels import (
    GlooReceiveChannel,
    GlooSendChannel,
    ReceiveChannel,
    Ring,
    RingReceiveChannel,
    RingSendChannel,
    SendChannel,
    TransferError,
    first_line,
    wait,
)

__all__ = [
    "ParamInfo",
    "Receiver",
    "Rendezvous",
    "Sender",
    "TransferError",
    "Weights",
    "host_store",
    "join",
    "largest_slot",
    "make_buckets",
]

ALIGNMENT = 64  # bytes; every parameter starts at a multiple, so that a view of any dtype is allowed and copies run fast


class ParamInfo(Protocol):
    """Name, dtype and full shape of one parameter."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102
    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102


class Weights(Protocol):
    """What is sent: a description that moves nothing, and a pass over (name, full tensor) in the same order.

    A pass may be a collective over the learner's ranks. A tensor is valid until the next one is asked for.
    """

    def metadata(self) -> Sequence[ParamInfo]: ...  # noqa: D102
    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]: ...


@dataclass(frozen=True)
class Rendezvous:
    """Where and how a transfer group meets; plain data that travels to the receivers."""

    address: str
    port: int
    rank: int  # of the receiver's first process
    world: int
    deadline_s: float
    bucket_bytes: int
    ring: str  # path of memory that processes of the sender's node share; empty: none
    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]

    def info(self) -> dict[str, Any]:
        """As the argument of ``init_weight_transfer_engine``."""
        return asdict(self)


@dataclass(frozen=True)
class Entry:
    """A parameter's place in its bucket, in bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """The parameter as a view of the bucket's bytes."""
        return flat[self.offset : self.offset + self.nbytes].view(self.dtype).view(self.shape)


def make_buckets(
    names: Sequence[str], dtypes: Sequence[str], shapes: Sequence[Sequence[int]], bucket_bytes: int
) -> list[list[Entry]]:
    """Cut a list of parameters into buckets. Both sides call it with the same arguments and so agree without a message."""
    buckets: list[list[Entry]] = []
    end = 0
    for name, dtype_name, shape in zip(names, dtypes, shapes, strict=True):
        dtype: torch.dtype = getattr(torch, dtype_name)
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if not buckets or end + nbytes > bucket_bytes:
            buckets.append([])
            end = 0
        buckets[-1].append(Entry(name, dtype, tuple(shape), end, nbytes))
        end = -(-(end + nbytes) // ALIGNMENT) * ALIGNMENT
    return buckets


def size(bucket: Sequence[Entry]) -> int:
    """Bytes of a bucket."""
    return bucket[-1].offset + bucket[-1].nbytes


def largest_slot(buckets: Sequence[Sequence[Entry]], bucket_bytes: int) -> int:
    """Bytes of a ring's slot: the largest bucket's, but not more than the limit (a larger parameter goes in pieces)."""
    return -(-min(bucket_bytes, max(size(bucket) for bucket in buckets)) // mmap.PAGESIZE) * mmap.PAGESIZE


def host_store(address: str, deadline_s: float) -> TCPStore:
    """The store at which a group meets, on a free port of this process (``.port``)."""
    return TCPStore(address, 0, None, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=deadline_s))


def join(rendezvous: Rendezvous, rank: int, store: TCPStore | None = None) -> ProcessGroupGloo:
    """Meet the other processes of the group.

    Raises:
        TransferError: not all came within the deadline.
    """
    patience = timedelta(seconds=rendezvous.deadline_s)
    try:
        if store is None:
            store = TCPStore(rendezvous.address, rendezvous.port, None, is_master=False, timeout=patience)
        options = ProcessGroupGloo._Options()
        options._timeout = patience
        options._threads = 2  # two buckets in flight
        # The interface that reaches the store, not the one that the host's own name happens to resolve to.
        options._devices = [ProcessGroupGloo.create_device(hostname=_own_address(rendezvous.address, rendezvous.port))]
        return ProcessGroupGloo(PrefixStore("r0_weights", store), rank, rendezvous.world, options)
    except RuntimeError as error:  # torch's DistError is one
        raise TransferError(
            f"weight transfer: {rendezvous.world} processes did not meet at {rendezvous.address}:{rendezvous.port} "
            f"within {rendezvous.deadline_s:g} s (rank {rank}): {first_line(error)}"
        ) from error


class Sender:
    """Rank 0's side of a transfer group.

    Args:
        group: as met.
        buckets: as cut.
        rendezvous: what the receivers were told; its ring is used when all of them could open it.
        ring: the ring that the rendezvous names.
    """

    def __init__(self, group: ProcessGroupGloo, rendezvous: Rendezvous, ring: Ring | None = None):
        self._buckets = make_buckets(rendezvous.names, rendezvous.dtypes, rendezvous.shapes, rendezvous.bucket_bytes)
        shared = _all_true(group, ring is not None, rendezvous.deadline_s)
        if ring is not None:
            ring.unlink()
        self._channel: SendChannel | None
        if ring is not None and shared:
            self._channel = RingSendChannel(ring, group, rendezvous.world - 1, rendezvous.deadline_s)
        else:
            # A parameter alone in its bucket is sent from where it lies; only packed buckets need memory.
            largest = max((size(bucket) for bucket in self._buckets if len(bucket) > 1), default=0)
            self._channel = GlooSendChannel(group, largest, rendezvous.deadline_s)

    def send(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Send every parameter once.

        Raises:
            TransferError: a receiver is gone or late, or the weights are not those that were agreed on.
        """
        channel = self._channel
        if channel is None:
            raise TransferError("weight transfer: the group was left after an error; connect anew")
        stream = iter(weights)
        for bucket in self._buckets:
            first = _expect(stream, bucket[0])
            if len(bucket) == 1:
                channel.send_tensor(first)
                continue
            flat = channel.buffer(size(bucket))
            bucket[0].view(flat).copy_(first)
            for entry in bucket[1:]:
                entry.view(flat).copy_(_expect(stream, entry))
            channel.post(size(bucket))
        channel.flush()
        if (extra := next(stream, None)) is not None:
            raise TransferError(f"weight transfer: the source has a parameter {extra[0]} that it did not declare")

    def close(self) -> None:
        """Leave the group; the receivers' wait ends at once, because its sockets close with it."""
        self._channel = None


class Receiver:
    """The side of a process that takes weights in.

    A bucket's memory is used again only when nothing refers to it any more: a consumer may hold parameters back until a fused
    layer is complete, as vLLM's layerwise reload does.
    """

    def __init__(self, rendezvous: Rendezvous, rank: int):
        self._buckets = make_buckets(rendezvous.names, rendezvous.dtypes, rendezvous.shapes, rendezvous.bucket_bytes)
        self._buffers: list[tuple[np.ndarray, StorageWeakRef]] = []
        group = join(rendezvous, rank)
        ring = Ring.open(rendezvous.ring) if rendezvous.ring else None
        shared = _all_true(group, ring is not None, rendezvous.deadline_s)
        self._channel: ReceiveChannel | None
        if ring is not None and shared:
            self._channel = RingReceiveChannel(ring, group, rendezvous.deadline_s)
        else:
            self._channel = GlooReceiveChannel(group, rendezvous.deadline_s)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, CPU tensor) as they arrive; the next bucket travels meanwhile.

        Raises:
            TransferError: the sender is gone or late.
        """
        flat, arrive = self._post(0)
        for index, bucket in enumerate(self._buckets):
            following = self._post(index + 1) if index + 1 < len(self._buckets) else None
            arrive()
            for entry in bucket:
                yield entry.name, entry.view(flat)
            if following is not None:
                flat, arrive = following
            del following
        del flat, arrive
        self._buffers = self._buffers[:2]  # more were only needed where a consumer held parameters back

    def close(self) -> None:
        """Leave the group; the sender's wait ends at once, because its sockets close with it."""
        self._channel = None
        self._buffers = []

    def _post(self, index: int) -> tuple[torch.Tensor, Callable[[], None]]:
        if self._channel is None:
            raise TransferError("weight transfer: the group was left after an error; connect anew")
        flat = self._memory(size(self._buckets[index]))
        return flat, self._channel.post(flat)

    def _memory(self, nbytes: int) -> torch.Tensor:
        free = [i for i, (_, user) in enumerate(self._buffers) if user.expired()]
        fitting = [i for i in free if self._buffers[i][0].size >= nbytes]
        index = (fitting or free or [len(self._buffers)])[0]
        buffer = self._buffers[index][0] if fitting else np.empty(nbytes, dtype=np.uint8)
        whole = torch.from_numpy(buffer)  # a storage of its own each time, so that its end can be seen
        self._buffers[index : index + 1] = [(buffer, StorageWeakRef(whole.untyped_storage()))]
        return whole[:nbytes]


def _all_true(group: ProcessGroupGloo, mine: bool, deadline_s: float) -> bool:
    """Whether all processes of the group say yes."""
    answer = torch.tensor([int(mine)])
    options = AllreduceOptions()
    options.reduceOp = ReduceOp.MIN
    wait(group.allreduce([answer], options), deadline_s, "the others")
    return bool(answer.item())


def _expect(stream: Iterator[tuple[str, torch.Tensor]], entry: Entry) -> torch.Tensor:
    item = next(stream, None)
    if item is None:
        raise TransferError(f"weight transfer: the source ended before {entry.name}")
    name, tensor = item
    if (name, tensor.dtype, tuple(tensor.shape)) != (entry.name, entry.dtype, entry.shape):
        raise TransferError(
            f"weight transfer: {entry.name} {entry.dtype} {entry.shape} was agreed on, "
            f"but the source gives {name} {tensor.dtype} {tuple(tensor.shape)}"
        )
    return tensor.detach()


def _own_address(address: str, port: int) -> str:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))  # sends nothing: it only asks the routing table
        return str(probe.getsockname()[0])
