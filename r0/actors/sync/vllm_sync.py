"""Weight sync between GPUs (``nccl``) and on a shared GPU (``ipc``): vLLM's trainer engines with r0's client.

vLLM's client for Ray sends every engine the same rank offset, so independent engines would have the same NCCL rank, and it waits
without a deadline. Here engine i gets ranks 1 + i · processes and up, and every call and every collective has a deadline. The
extra memory is two packed buffers (one with ``ipc``) of ``bucket_bytes``, or of the largest tensor if it is larger. ``nccl``
makes three remote calls per worker and sync. ``ipc`` makes one update call per bucket, because a handle must be opened before
its buffer is refilled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from r0.actors.calls import call_each
from r0.actors.sync.transfer import TransferError, Weights
from r0.errors import UserError
from r0.process.ports import free_port


class DefaultStreamSource(WeightSource):
    """The learner's weights for vLLM's packed senders.

    The senders request the next tensor in a side stream, where a collective gather can deadlock with more than two ranks. Here
    every step of the iteration runs on the default stream and is complete before the tensor is returned.
    """

    def __init__(self, weights: Weights):
        self._weights = weights

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and full shapes, in the order of iteration."""
        return [ParamMeta(each.name, each.dtype, tuple(each.shape)) for each in self._weights.metadata()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        stream = torch.cuda.default_stream()
        weights = iter(self._weights)
        while True:
            with torch.cuda.stream(stream):
                item = next(weights, None)
            stream.synchronize()
            if item is None:
                return
            yield item


class EngineClient:
    """vLLM's client protocol for r0's rollout workers. ``version`` is the weight version of the next finished update."""

    def __init__(self, workers: Sequence[Any], processes: int, deadline_s: float):
        self._workers, self._processes, self._deadline_s = list(workers), processes, deadline_s
        self.version = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every engine join, each with its own ranks."""
        infos = [dict(init_info) for _ in self._workers]
        for index, info in enumerate(infos):
            if "rank_offset" in info:
                info["rank_offset"] += index * self._processes
        self._call("init_weight_transfer_engine", [(info,) for info in infos])

    def start_weight_update(self) -> None:
        """See vLLM's protocol."""
        self._call("start_weight_update", [()] * len(self._workers))

    def update_weights(self, update_info: Any) -> None:
        """See vLLM's protocol."""
        self._call("update_weights", [(update_info,)] * len(self._workers))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """See vLLM's protocol; the version is ``self.version``, because vLLM's trainer engines do not pass one."""
        self._call("finish_weight_update", [(self.version,)] * len(self._workers))

    def _call(self, method: str, arguments: list[tuple]) -> None:
        call_each(self._workers, method, arguments, self._deadline_s, "rollout")


class VllmSender:
    """A ``r0.actors.sync.sync.Sender`` of one learner rank.

    Raises:
        UserError: ``ipc`` with several learner ranks.
        TransferError: not all engines joined within the deadline.
    """

    def __init__(
        self,
        backend: str,
        source: Weights,
        workers: Sequence[Any],
        rank: int,
        world: int,
        deadline_s: float,
        bucket_bytes: int,
        processes: int,
    ):
        if backend == "ipc" and world > 1:
            raise UserError("sync.backend: ipc needs learner.ranks=1, since only rank 0 holds whole weights; use gloo")
        self._deadline_s = deadline_s
        self._client = EngineClient(workers, processes, deadline_s)
        info = _trainer_info(backend, rank, 1 + len(workers) * processes, buffer_bytes(source, bucket_bytes))
        self._engine = run_with_deadline(
            deadline_s,
            f"connecting {len(workers)} rollout workers over {backend}",
            lambda: WeightTransferTrainerFactory.trainer_init(info, client=self._client, source=DefaultStreamSource(source)),
        )

    def send(self, version: int) -> float:
        """See Sender."""
        began = time.monotonic()
        self._client.version = version
        run_with_deadline(self._deadline_s, "sending weights", self._engine.send_weights)
        return time.monotonic() - began

    def close(self) -> None:
        """Leave the transfer group."""
        self._engine.shutdown()


def buffer_bytes(source: Weights, bucket_bytes: int) -> int:
    """Bytes of a packed buffer: ``bucket_bytes``, or the size of the largest tensor if it is larger.

    ``ipc`` never splits a tensor, and ``nccl`` warns about each that is larger than its buffer.
    """
    return max(bucket_bytes, *(each.dtype.itemsize * torch.Size(each.shape).numel() for each in source.metadata()))


def _trainer_info(backend: str, rank: int, world: int, bucket_bytes: int) -> Any:
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=bucket_bytes, rank=rank)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    address, port = "127.0.0.1", 0
    if rank == 0:  # only the sender opens the endpoint and sends its address to the engines
        import ray

        address, port = ray.util.get_node_ip_address(), free_port()
    return NCCLTrainerInitInfo(
        master_address=address,
        master_port=port,
        world_size=world,
        packed=True,
        packed_buffer_size_bytes=bucket_bytes,
        packed_num_buffers=2,
        rank=rank,
    )


def run_with_deadline(deadline_s: float, what: str, work: Any) -> Any:
    """Run ``work()`` in a thread and return its result, because NCCL calls have no deadline.

    Raises:
        TransferError: not done within ``deadline_s``. The collective cannot be cancelled, so the process must end.
    """
    outcome: list[Any] = []
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def run() -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)  # a thread starts at device 0
            outcome.append((work(), None))
        except BaseException as error:  # raised in the caller
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="r0-sync", daemon=True)
    thread.start()
    thread.join(deadline_s)
    if not outcome:
        raise TransferError(f"weight transfer: {what} took longer than the deadline of {deadline_s:g} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
