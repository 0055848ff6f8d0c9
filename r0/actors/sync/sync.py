"""Weight sync, the learner's side: every learner rank has a sender, and rank 0 calls the rollout workers.

A sync makes three calls per worker (start, update, finish), independently of the number of parameters; the weights are streamed
during the second. Each backend uses vLLM's four weight transfer calls, which the Hugging Face engine implements too:

- ``local``: the engine is in the same process and reads the learner's weights.
- ``gloo``: buckets over a separate process group (r0.actors.sync.transfer), through shared memory if all processes are on one
  node; for CPUs and for engines without vLLM.
- ``nccl``, ``ipc``: vLLM's trainer engines (r0.actors.sync.vllm_sync), between GPUs and on a shared GPU.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from r0.actors.calls import call_each, is_actor
from r0.actors.sync.buckets import largest_slot, make_buckets
from r0.actors.sync.channels import Ring
from r0.actors.sync.rendezvous import Rendezvous, host_store, join
from r0.actors.sync.transfer import Sender as BucketSender
from r0.actors.sync.transfer import Weights
from r0.errors import UserError


class Sender(Protocol):
    """One learner rank's side of every sync."""

    def send(self, version: int) -> float:
        """Send all weights to every rollout worker as ``version``; collective over the learner's ranks. Returns the seconds.

        Raises:
            TransferError: weights did not arrive within the deadline.
            RoleTimeout, RoleDied: a worker is late or gone.
        """

    def close(self) -> None:
        """Leave the transfer group."""


def make_sender(
    backend: str,
    source: Weights,
    workers: Sequence[Any],
    rank: int,
    world: int,
    deadline_s: float,
    bucket_bytes: int = 64 * 2**20,
    tensor_parallel_size: int = 1,
) -> Sender:
    """Connect the learner with the rollout workers; called once on every learner rank.

    Args:
        backend: local, gloo, nccl or ipc.
        source: the learner's weights; iterating over them is collective.
        workers: rollout workers, plain objects or Ray actor handles; only rank 0 uses them.
        rank, world: of this learner.
        deadline_s: seconds that connecting and each sync may take.
        bucket_bytes: bytes per bucket.
        tensor_parallel_size: number of processes of each engine.

    Raises:
        UserError: unknown backend; ``local`` with workers in other processes or several learner ranks.
        TransferError, RoleTimeout, RoleDied: not all workers joined.
    """
    if backend == "local":
        if world > 1 or len(workers) != 1 or is_actor(workers[0]):
            raise UserError("sync.backend: local is for ray.inline=true, one learner and one engine in one process; use gloo")
        return LocalSender(source, workers[0])
    if backend in ("nccl", "ipc"):
        from r0.actors.sync.vllm_sync import VllmSender

        return VllmSender(backend, source, workers, rank, world, deadline_s, bucket_bytes, tensor_parallel_size)
    if backend != "gloo":
        raise UserError(f"sync.backend: {backend} is none of local, gloo, nccl, ipc")
    if rank != 0:
        return Follower(source)
    return GlooSender(source, workers, deadline_s, bucket_bytes, tensor_parallel_size)


class Follower:
    """The sender of ranks above 0, which only take part in gathering the weights."""

    def __init__(self, source: Weights):
        self._source = source

    def send(self, version: int) -> float:
        """Iterate over the source together with rank 0."""
        began = time.monotonic()
        for _ in self._source:
            pass
        return time.monotonic() - began

    def close(self) -> None:
        """Do nothing: there is no group."""


class LocalSender:
    """The sender for an engine in this process, which reads the weights directly."""

    def __init__(self, source: Weights, worker: Any):
        self._source, self._worker = source, worker
        worker.init_weight_transfer_engine({})

    def send(self, version: int) -> float:
        """See Sender."""
        began = time.monotonic()
        self._worker.start_weight_update()
        self._worker.update_weights({"weights": self._source})
        self._worker.finish_weight_update(version)
        return time.monotonic() - began

    def close(self) -> None:
        """Do nothing: there is no group."""


class GlooSender:
    """The sender of the learner's rank 0, which is rank 0 of the transfer group; process p of engine i has rank
    1 + i · processes + p."""

    def __init__(self, source: Weights, workers: Sequence[Any], deadline_s: float, bucket_bytes: int, processes: int = 1):
        self._source, self._workers, self._deadline_s = source, list(workers), deadline_s
        mine = _rendezvous(source, node_address(workers), 1 + len(workers) * processes, deadline_s, bucket_bytes)
        ring = Ring.create(largest_slot(make_buckets(mine.names, mine.dtypes, mine.shapes, bucket_bytes), bucket_bytes))
        self._store = host_store(mine.address, deadline_s)  # it must outlive the group
        mine = replace(mine, port=self._store.port, ring=ring.path if ring else "")
        for_workers = [(replace(mine, rank=1 + index * processes).info(),) for index in range(len(workers))]
        try:
            with BackgroundCall(workers, "init_weight_transfer_engine", for_workers, deadline_s) as joining:
                self._sender = BucketSender(join(mine, 0, self._store), mine, ring)
                joining.result()
        except BaseException:
            if ring is not None:
                ring.unlink()
            raise

    def send(self, version: int) -> float:
        """See Sender."""
        began = time.monotonic()
        weights = iter(self._source)
        try:
            self._call("start_weight_update")
            with BackgroundCall(self._workers, "update_weights", [({},)] * len(self._workers), self._deadline_s) as receiving:
                self._sender.send(weights)
                receiving.result()
            self._call("finish_weight_update", version)
        except BaseException:
            self._sender.close()  # ends the receivers' wait
            for _ in weights:  # gather to the end, because the other ranks do
                pass
            raise
        return time.monotonic() - began

    def close(self) -> None:
        """Leave the group; the workers' next receive then fails at once."""
        self._sender.close()

    def _call(self, method: str, *arguments: Any) -> None:
        call_each(self._workers, method, [arguments] * len(self._workers), self._deadline_s, "rollout")


def _rendezvous(source: Weights, address: str, world: int, deadline_s: float, bucket_bytes: int) -> Rendezvous:
    """The rendezvous without the port, the ring and each receiver's rank."""
    meta = source.metadata()
    return Rendezvous(
        address=address,
        port=0,
        rank=0,
        world=world,
        deadline_s=deadline_s,
        bucket_bytes=bucket_bytes,
        ring="",
        names=[each.name for each in meta],
        dtypes=[str(each.dtype).removeprefix("torch.") for each in meta],
        shapes=[list(each.shape) for each in meta],
    )


class BackgroundCall:
    """Calls all workers in a thread while the block runs, because sender and receivers wait for each other.

    If the block fails and the workers have failed too, the workers' error is raised instead: it is the cause.
    """

    def __init__(self, workers: Sequence[Any], method: str, arguments: Sequence[tuple], deadline_s: float, grace_s: float = 2.0):
        self._call = (workers, method, arguments, deadline_s, "rollout")
        self._grace_s = grace_s
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="r0-sync")

    def __enter__(self) -> Future:
        self._future = self._threads.submit(call_each, *self._call)
        return self._future

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._threads.shutdown(wait=False)
        if error is None or self._future.cancelled():
            return
        try:
            cause = self._future.exception(timeout=self._grace_s)
        except TimeoutError:
            return  # the block's error is raised
        if cause is not None and cause is not error:
            raise cause from error


def node_address(workers: Sequence[Any]) -> str:
    """This process's address for the workers: the loopback address if they are plain objects, else the node's."""
    if not workers or not is_actor(workers[0]):
        return "127.0.0.1"
    import ray

    return ray.util.get_node_ip_address()
