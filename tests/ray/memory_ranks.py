"""Counts the bytes of all tensors that a learner rank holds, in processes of their own: every storage once."""

from __future__ import annotations

import gc
import multiprocessing
import socket
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from r0.config import StageAConfig
from r0.records import TrainCompletion, TrainGroup


@dataclass(frozen=True)
class Count:
    """Bytes of rank 0 just before the optimizer steps of the second update."""

    total: int
    bucket: int  # of it, DeepSpeed's buckets of gradients


def count(settings: list[dict[str, Any]], model: str, world: int = 1) -> list[Count]:
    """For each configuration, what rank 0 of ``world`` holds at its fullest, in ``world`` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    ranks = [context.Process(target=_rank, args=(r, world, port, settings, model, results)) for r in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(600)
    alive = [process for process in ranks if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive, "a rank hangs"
    assert [process.exitcode for process in ranks] == [0] * world
    return results.get()


def _rank(rank: int, world: int, port: int, settings: list[dict[str, Any]], model: str, results: Any) -> None:
    torch.set_num_threads(1)
    found = [_count(one, model, rank, world, f"127.0.0.1:{port}") for one in settings]
    if rank == 0:
        results.put(found)


def _count(settings: dict[str, Any], model: str, rank: int, world: int, master: str) -> Count:
    from r0.actors.learner.worker import Learner

    before = _storages()
    learner = Learner(StageAConfig(**settings), model, 10, rank, world, master, "cpu")
    counts: list[Count] = []
    engines = [engine for engine in (learner.networks.policy, learner.networks.critic) if engine is not None]
    step = engines[0].step  # the policy steps first, when both have their gradients

    def counted_step() -> Any:
        parameters = [parameter for engine in engines for parameter in engine.module.parameters()]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]  # some exist in C++ only
        new = {pointer: found for pointer, found in _storages(gradients).items() if pointer not in before}
        counts.append(Count(sum(size for size, _ in new.values()), sum(size for size, n in new.values() if n == 50_000_000)))
        return step()

    learner.update(_groups(rank), 0)
    engines[0].step = counted_step
    learner.update(_groups(rank), 1)
    return counts[-1]  # the process group stays, for the next one


def _groups(rank: int) -> list[TrainGroup]:
    """A few tokens: activations are not what is counted."""
    completions = tuple(TrainCompletion((5, 6, 7 + i), (-4.0, -4.1, -4.2), float(i), 0) for i in range(2))
    return [TrainGroup((1, 2, 3 + rank), completions)]


def _storages(extra: list[torch.Tensor] | None = None) -> dict[int, tuple[int, int]]:
    """Bytes and elements of every storage that a tensor of this process has."""
    gc.collect()
    found: dict[int, tuple[int, int]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    for tensor in [*tensors, *(extra or [])]:
        if tensor.device.type == "cpu" and tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            if storage.nbytes():
                found[storage.data_ptr()] = (storage.nbytes(), storage.nbytes() // tensor.element_size())
    return found
