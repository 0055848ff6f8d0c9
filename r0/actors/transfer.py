"""Moving all weights of a model from one process to others in buckets, over gloo. Pure torch: neither vLLM nor Ray.

The sender is rank 0 of a process group of its own (never the default group), the receivers are ranks 1 and up. Both sides cut the
same list of parameters into the same buckets: whole parameters, at most ``bucket_bytes`` together, or one parameter alone that is
larger. A bucket is one broadcast. Two buckets are in flight: while one travels, the next is packed (sender) and the previous one
is loaded (receiver). Weights travel in the sender's dtype; a receiver with another rounds to nearest when it copies.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import torch
from torch.distributed import BroadcastOptions, PrefixStore, ProcessGroupGloo, TCPStore
from torch.multiprocessing.reductions import StorageWeakRef

ALIGNMENT = 64  # bytes; every parameter starts at a multiple, so that a view of any dtype is allowed and copies run fast


class TransferError(RuntimeError):
    """Weights did not arrive. (One argument, so that the type survives Ray's pickling.)"""


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
class Meeting:
    """Where and how a transfer group meets; plain data that travels to the receivers."""

    address: str
    port: int
    rank: int  # of the receiver's first process
    world: int
    deadline_s: float
    bucket_bytes: int
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


def cut(names: Sequence[str], dtypes: Sequence[str], shapes: Sequence[Sequence[int]], bucket_bytes: int) -> list[list[Entry]]:
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


def host_store(address: str, deadline_s: float) -> TCPStore:
    """The store at which a group meets, on a free port of this process (``.port``)."""
    return TCPStore(address, 0, None, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=deadline_s))


def join(meeting: Meeting, rank: int, store: TCPStore | None = None) -> ProcessGroupGloo:
    """Meet the other processes of the group.

    Raises:
        TransferError: not all came within the deadline.
    """
    wait = timedelta(seconds=meeting.deadline_s)
    try:
        if store is None:
            store = TCPStore(meeting.address, meeting.port, None, is_master=False, timeout=wait)
        options = ProcessGroupGloo._Options()
        options._timeout = wait
        options._threads = 2  # two buckets in flight
        # The interface that reaches the store, not the one that the host's own name happens to resolve to.
        options._devices = [ProcessGroupGloo.create_device(hostname=_own_address(meeting.address, meeting.port))]
        return ProcessGroupGloo(PrefixStore("r0_weights", store), rank, meeting.world, options)
    except RuntimeError as error:  # torch's DistError is one
        raise TransferError(
            f"weight transfer: {meeting.world} processes did not meet at {meeting.address}:{meeting.port} "
            f"within {meeting.deadline_s:g} s (rank {rank}): {_first_line(error)}"
        ) from error


class Sender:
    """Rank 0's side of a transfer group."""

    def __init__(self, group: ProcessGroupGloo, buckets: Sequence[Sequence[Entry]], deadline_s: float):
        self._group: ProcessGroupGloo | None = group
        self._buckets = buckets
        self._deadline_s = deadline_s
        # A parameter alone in its bucket is sent from where it lies; only packed buckets need memory.
        packed = max((size(bucket) for bucket in buckets if len(bucket) > 1), default=0)
        self._buffers = [torch.empty(packed, dtype=torch.uint8) for _ in range(2)]

    def send(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Broadcast every parameter once.

        Raises:
            TransferError: a receiver is gone or late, or the weights are not those that were agreed on.
        """
        stream = iter(weights)
        works: list[Any] = [None, None]  # of the two buffers
        for index, bucket in enumerate(self._buckets):
            slot = index % 2
            self._wait(works[slot])
            works[slot] = None
            first = _expect(stream, bucket[0])
            if len(bucket) == 1 and first.device.type == "cpu" and first.is_contiguous():
                self._wait(self._broadcast(first.reshape(-1).view(torch.uint8)))  # done before the source goes on
                continue
            if size(bucket) > self._buffers[slot].numel():  # alone in its bucket, but not sendable from where it lies
                self._buffers[slot] = torch.empty(size(bucket), dtype=torch.uint8)
            bucket[0].view(self._buffers[slot]).copy_(first)
            for entry in bucket[1:]:
                entry.view(self._buffers[slot]).copy_(_expect(stream, entry))
            works[slot] = self._broadcast(self._buffers[slot][: size(bucket)])
        for work in works:
            self._wait(work)
        if (extra := next(stream, None)) is not None:
            raise TransferError(f"weight transfer: the source has a parameter {extra[0]} that it did not declare")

    def close(self) -> None:
        """Leave the group; the receivers' wait ends at once."""
        self._group = None  # its sockets close with it

    def _broadcast(self, flat: torch.Tensor) -> Any:
        return _broadcast(self._group, flat, self._deadline_s)

    def _wait(self, work: Any) -> None:
        _wait(work, self._deadline_s, "receivers")


class Receiver:
    """The side of a process that takes weights in.

    A bucket's memory is used again only when nothing refers to it any more: a consumer may hold parameters back until a fused
    layer is complete, as vLLM's layerwise reload does.
    """

    def __init__(self, meeting: Meeting, rank: int):
        self._deadline_s = meeting.deadline_s
        self._buckets = cut(meeting.names, meeting.dtypes, meeting.shapes, meeting.bucket_bytes)
        self._arenas: list[tuple[np.ndarray, StorageWeakRef]] = []
        self._group: ProcessGroupGloo | None = join(meeting, rank)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, CPU tensor) as they arrive; the next bucket travels meanwhile.

        Raises:
            TransferError: the sender is gone or late.
        """
        arriving = self._post(0)
        for index, bucket in enumerate(self._buckets):
            flat, work = arriving
            following = self._post(index + 1) if index + 1 < len(self._buckets) else None
            self._wait(work)
            if following is not None:
                arriving = following
            for entry in bucket:
                yield entry.name, entry.view(flat)
            del flat
        del arriving
        self._arenas = self._arenas[:2]  # more were only needed where a consumer held parameters back

    def close(self) -> None:
        """Leave the group; the sender's wait ends at once."""
        self._group = None  # its sockets close with it
        self._arenas = []

    def _post(self, index: int) -> tuple[torch.Tensor, Any]:
        flat = self._memory(size(self._buckets[index]))
        return flat, _broadcast(self._group, flat, self._deadline_s)

    def _wait(self, work: Any) -> None:
        _wait(work, self._deadline_s, "the sender")

    def _memory(self, nbytes: int) -> torch.Tensor:
        free = [i for i, (_, user) in enumerate(self._arenas) if user.expired()]
        fitting = [i for i in free if self._arenas[i][0].size >= nbytes]
        index = (fitting or free or [len(self._arenas)])[0]
        arena = self._arenas[index][0] if fitting else np.empty(nbytes, dtype=np.uint8)
        whole = torch.from_numpy(arena)  # a storage of its own each time, so that its end can be seen
        self._arenas[index : index + 1] = [(arena, StorageWeakRef(whole.untyped_storage()))]
        return whole[:nbytes]


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


def _broadcast(group: ProcessGroupGloo | None, flat: torch.Tensor, deadline_s: float) -> Any:
    if group is None:
        raise TransferError("weight transfer: the group was left after an error; connect anew")
    options = BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    options.timeout = timedelta(seconds=deadline_s)
    return group.broadcast([flat], options)


def _wait(work: Any, deadline_s: float, whom: str) -> None:
    if work is None:
        return
    try:
        work.wait(timedelta(seconds=deadline_s))
    except RuntimeError as error:
        raise TransferError(f"weight transfer: {whom} gone or late (deadline {deadline_s:g} s): {_first_line(error)}") from error


def _own_address(address: str, port: int) -> str:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))  # sends nothing: it only asks the routing table
        return str(probe.getsockname()[0])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
