"""Two channels for the bytes of a bucket from sender to receivers: a gloo broadcast, or shared memory.

A socket copies every byte twice in the kernel and once more on each side. On one node the bytes instead go through a ring buffer
of two slots in shared memory, with one copy in and one out. Gloo then only signals when a slot is full or free, so deadlines and
lost peers are detected in the same way by both channels.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import torch
from torch.distributed import BroadcastOptions, ProcessGroupGloo

from r0.process.folders import process_name

SHARED = "/dev/shm"
SLOTS = 2


class TransferError(RuntimeError):
    """Weights did not arrive. (It has one argument, so that Ray can pickle it.)"""


class SendChannel(Protocol):
    """The sender's end of a channel."""

    def buffer(self, nbytes: int) -> torch.Tensor:
        """Memory for the next packed bucket, ready to be written."""

    def post(self, nbytes: int) -> None:
        """Start to send the first ``nbytes`` of the last buffer."""

    def send_tensor(self, tensor: torch.Tensor) -> None:
        """Send one tensor without packing; on return its memory is no longer used."""

    def flush(self) -> None:
        """Wait until everything posted has been received."""


class ReceiveChannel(Protocol):
    """A receiver's end of a channel."""

    def post(self, flat: torch.Tensor) -> Callable[[], None]:
        """Start to receive the next bucket into ``flat``; the returned function waits for it."""


class GlooSendChannel:
    """Sends by gloo broadcasts, with two packed buckets in flight."""

    def __init__(self, group: ProcessGroupGloo, largest: int, deadline_s: float):
        self._group, self._deadline_s = group, deadline_s
        self._buffers = [torch.empty(largest, dtype=torch.uint8) for _ in range(SLOTS)]
        self._works: list[Any] = [None] * SLOTS
        self._slot = 0

    def buffer(self, nbytes: int) -> torch.Tensor:
        """See SendChannel."""
        self._wait(self._slot)
        return self._buffers[self._slot][:nbytes]

    def post(self, nbytes: int) -> None:
        """See SendChannel."""
        with peer_errors("receivers", self._deadline_s):
            self._works[self._slot] = broadcast(self._group, self._buffers[self._slot][:nbytes], self._deadline_s)
        self._slot = (self._slot + 1) % SLOTS

    def send_tensor(self, tensor: torch.Tensor) -> None:
        """See SendChannel."""
        flat = as_bytes(tensor.cpu())
        wait(broadcast(self._group, flat, self._deadline_s), self._deadline_s, "receivers")

    def flush(self) -> None:
        """See SendChannel."""
        for slot in range(SLOTS):
            self._wait(slot)

    def _wait(self, slot: int) -> None:
        work, self._works[slot] = self._works[slot], None
        if work is not None:
            wait(work, self._deadline_s, "receivers")


class GlooReceiveChannel:
    """The receiving end of GlooSendChannel."""

    def __init__(self, group: ProcessGroupGloo, deadline_s: float):
        self._group, self._deadline_s = group, deadline_s

    def post(self, flat: torch.Tensor) -> Callable[[], None]:
        """See ReceiveChannel."""
        work = broadcast(self._group, flat, self._deadline_s)
        return lambda: wait(work, self._deadline_s, "the sender")


class Ring:
    """A ring buffer of two slots in memory that the processes of one node share.

    The file has a random name, so a process that can open it is on the same node. It is unlinked as soon as all processes have
    opened it. What a process leaves that is killed before that is removed when r0 is started again.
    """

    def __init__(self, path: str, memory: mmap.mmap):
        self.path = path
        whole = torch.from_numpy(np.frombuffer(memory, dtype=np.uint8))
        self.slots = whole.view(SLOTS, -1)

    @classmethod
    def create(cls, slot_bytes: int) -> Ring | None:
        """A new ring; None if the node has no shared memory, or not enough."""
        path = f"{SHARED}/r0-{process_name()}-{secrets.token_hex(16)}"
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except OSError:
            return None
        try:
            os.posix_fallocate(
                handle, 0, SLOTS * slot_bytes
            )  # allocate now: with too little memory, a later write would kill the process
            return cls(path, mmap.mmap(handle, SLOTS * slot_bytes))
        except OSError:
            os.unlink(path)
            return None
        finally:
            os.close(handle)

    @classmethod
    def open(cls, path: str) -> Ring | None:
        """The ring at ``path``; None if it is on another node."""
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError:
            return None
        try:
            return cls(path, mmap.mmap(handle, 0))
        finally:
            os.close(handle)

    def unlink(self) -> None:
        """Remove the file's name; the memory exists as long as a process uses it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class RingSendChannel:
    """The sender's end of a ring."""

    def __init__(self, ring: Ring, group: ProcessGroupGloo, receivers: int, deadline_s: float):
        self._slots, self._group, self._deadline_s = ring.slots, group, deadline_s
        self._receivers = range(1, receivers + 1)
        self._freed: list[list[Any]] = [[] for _ in range(SLOTS)]
        self._signals = torch.zeros(SLOTS, receivers + 1, dtype=torch.int64)  # messages of gloo; the values have no meaning
        self._slot = 0

    def buffer(self, nbytes: int) -> torch.Tensor:
        """See SendChannel."""
        freed, self._freed[self._slot] = self._freed[self._slot], []
        for work in freed:
            wait(work, self._deadline_s, "receivers")
        return self._slots[self._slot, :nbytes]

    def post(self, nbytes: int) -> None:
        """See SendChannel."""
        signals = self._signals[self._slot]
        with peer_errors("receivers", self._deadline_s):
            full = broadcast(self._group, signals[:1], self._deadline_s)
            freed = [self._group.recv([signals[rank : rank + 1]], rank, self._slot) for rank in self._receivers]
        self._freed[self._slot] = [full, *freed]
        self._slot = (self._slot + 1) % SLOTS

    def send_tensor(self, tensor: torch.Tensor) -> None:
        """See SendChannel."""
        for piece in as_bytes(tensor).split(self._slots.shape[1]):
            self.buffer(piece.numel()).copy_(piece)
            self.post(piece.numel())

    def flush(self) -> None:
        """See SendChannel."""
        for _ in range(SLOTS):
            self.buffer(0)
            self._slot = (self._slot + 1) % SLOTS


class RingReceiveChannel:
    """A receiver's end of a ring."""

    def __init__(self, ring: Ring, group: ProcessGroupGloo, deadline_s: float):
        self._slots, self._group, self._deadline_s = ring.slots, group, deadline_s
        self._slot = 0

    def post(self, flat: torch.Tensor) -> Callable[[], None]:
        """See ReceiveChannel."""
        return lambda: self._read(flat)

    def _read(self, flat: torch.Tensor) -> None:
        for piece in flat.split(self._slots.shape[1]):
            signal = torch.zeros(1, dtype=torch.int64)
            wait(broadcast(self._group, signal, self._deadline_s), self._deadline_s, "the sender")
            piece.copy_(self._slots[self._slot, : piece.numel()])
            with peer_errors("the sender", self._deadline_s):
                freed = self._group.send([signal], 0, self._slot)
            wait(freed, self._deadline_s, "the sender")
            self._slot = (self._slot + 1) % SLOTS


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes [nbytes], without a copy if it is contiguous."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def broadcast(group: ProcessGroupGloo, flat: torch.Tensor, deadline_s: float) -> Any:
    """Start a broadcast from rank 0."""
    options = BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    options.timeout = timedelta(seconds=deadline_s)
    return group.broadcast([flat], options)


def wait(work: Any, deadline_s: float, whom: str) -> None:
    """Wait for an operation of gloo.

    Raises:
        TransferError: ``whom`` is gone, or the deadline has passed.
    """
    with peer_errors(whom, deadline_s):
        work.wait(timedelta(seconds=deadline_s))


@contextlib.contextmanager
def peer_errors(whom: str, deadline_s: float) -> Iterator[None]:
    """Convert errors of gloo in the block to a TransferError; gloo may raise when an operation starts or when it is awaited."""
    try:
        yield
    except RuntimeError as error:
        raise TransferError(f"weight transfer: {whom} gone or late (deadline {deadline_s:g} s): {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
