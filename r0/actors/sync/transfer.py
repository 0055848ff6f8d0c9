"""Sends all weights of a model from one process to others in buckets. Pure torch, without vLLM and Ray.

The sender is rank 0 of a separate process group (never the default group), the receivers are ranks 1 and up. Both sides split the
same list of parameters into the same buckets: whole parameters of at most ``bucket_bytes`` together, or a single larger
parameter. Two buckets are in flight: while one is sent, the next is packed (sender) and the previous one is loaded (receiver).
Weights are sent in the sender's dtype; a receiver with another dtype rounds to nearest when it copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch.distributed import AllreduceOptions, ProcessGroupGloo, ReduceOp
from torch.multiprocessing.reductions import StorageWeakRef

from r0.actors.sync.buckets import Entry, make_buckets, size
from r0.actors.sync.channels import (
    GlooReceiveChannel,
    GlooSendChannel,
    ReceiveChannel,
    Ring,
    RingReceiveChannel,
    RingSendChannel,
    SendChannel,
    TransferError,
    wait,
)
from r0.actors.sync.rendezvous import Rendezvous, join

__all__ = ["ParamInfo", "Receiver", "Rendezvous", "Sender", "TransferError", "Weights"]


class ParamInfo(Protocol):
    """Name, dtype and full shape of one parameter."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102
    @property
    def shape(self) -> Sequence[int]: ...  # noqa: D102


class Weights(Protocol):
    """The weights to send: their metadata, and an iterator over (name, full tensor) in the same order.

    Iteration may be collective over the learner's ranks. A tensor is valid until the next one is requested.
    """

    def metadata(self) -> Sequence[ParamInfo]: ...  # noqa: D102
    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]: ...


class Sender:
    """Rank 0's side of a transfer group.

    Args:
        group: the transfer group.
        rendezvous: as sent to the receivers; its ring is used if all of them can open it.
        ring: the ring named by the rendezvous.
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
            # A parameter alone in its bucket is sent without packing; only packed buckets need memory.
            largest = max((size(bucket) for bucket in self._buckets if len(bucket) > 1), default=0)
            self._channel = GlooSendChannel(group, largest, rendezvous.deadline_s)

    def send(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Send every parameter once.

        Raises:
            TransferError: a receiver is gone or late, or the weights do not match the rendezvous.
        """
        channel = self._channel
        if channel is None:
            raise TransferError("weight transfer: the group was left after an error; reconnect")
        stream = iter(weights)
        for bucket in self._buckets:
            first = _next_tensor(stream, bucket[0])
            if len(bucket) == 1:
                channel.send_tensor(first)
                continue
            flat = channel.buffer(size(bucket))
            bucket[0].view(flat).copy_(first)
            for entry in bucket[1:]:
                entry.view(flat).copy_(_next_tensor(stream, entry))
            channel.post(size(bucket))
        channel.flush()
        if (extra := next(stream, None)) is not None:
            raise TransferError(f"weight transfer: the source has a parameter {extra[0]} that it did not declare")

    def close(self) -> None:
        """Leave the group; its sockets close, so the receivers stop waiting at once."""
        self._channel = None


class Receiver:
    """A receiver's side of a transfer group.

    A bucket's memory is reused only when nothing refers to it any more, because a consumer may hold parameters until a fused
    layer is complete (vLLM's layerwise reload does).
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
        """Yield (name, CPU tensor) as they arrive, while the next bucket is being received.

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
        self._buffers = self._buffers[:2]  # more are only needed while a consumer holds parameters

    def close(self) -> None:
        """Leave the group; its sockets close, so the sender stops waiting at once."""
        self._channel = None
        self._buffers = []

    def _post(self, index: int) -> tuple[torch.Tensor, Callable[[], None]]:
        if self._channel is None:
            raise TransferError("weight transfer: the group was left after an error; reconnect")
        flat = self._free_buffer(size(self._buckets[index]))
        return flat, self._channel.post(flat)

    def _free_buffer(self, nbytes: int) -> torch.Tensor:
        free = [i for i, (_, user) in enumerate(self._buffers) if user.expired()]
        fitting = [i for i in free if self._buffers[i][0].size >= nbytes]
        index = (fitting or free or [len(self._buffers)])[0]
        buffer = self._buffers[index][0] if fitting else np.empty(nbytes, dtype=np.uint8)
        whole = torch.from_numpy(buffer)  # a new storage each time, so that StorageWeakRef detects when it is released
        self._buffers[index : index + 1] = [(buffer, StorageWeakRef(whole.untyped_storage()))]
        return whole[:nbytes]


def _all_true(group: ProcessGroupGloo, mine: bool, deadline_s: float) -> bool:
    """Whether ``mine`` is true in all processes of the group; collective."""
    answer = torch.tensor([int(mine)])
    options = AllreduceOptions()
    options.reduceOp = ReduceOp.MIN
    wait(group.allreduce([answer], options), deadline_s, "the others")
    return bool(answer.item())


def _next_tensor(stream: Iterator[tuple[str, torch.Tensor]], entry: Entry) -> torch.Tensor:
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
