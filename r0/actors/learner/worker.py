"""The learner: a plain class for one rank, usable without Ray (``group.py`` is the driver's side)."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r0.actors.learner.batch import Schedule
from r0.actors.learner.comm import Comm
from r0.actors.learner.layout import layout, reshaped
from r0.actors.learner.networks import learner_dtype, load_networks
from r0.actors.learner.shares import even_schedule
from r0.actors.learner.state_file import State, read_state, write_state
from r0.actors.learner.trouble import Trouble
from r0.actors.learner.update import Updater
from r0.actors.learner.zero import (
    engine_state,
    leave_distributed,
    load_engine_state,
    master_weights,
    offload_optimizer,
    reload_optimizer,
    replicated,
    set_learning_rate,
    start_distributed,
)
from r0.actors.sync.digest import NOTHING, Noted
from r0.actors.sync.weights import LearnerWeights, save_hf
from r0.config import RLConfig
from r0.errors import UserError
from r0.process.allocator import keep_freed_blocks
from r0.process.device import process_device, with_index
from r0.process.faults import reached
from r0.records import TrainGroup
from r0.storage.manifest import Entries, entry

IDENTITY = "learner.json"  # settings that must be equal in a checkpoint and in the learner that loads it
RESHAPED = {"learner.ranks", "learner.zero_stage"}  # these may differ


class Learner:
    """One DeepSpeed rank: policy, critic and reference model.

    Args:
        config: the run's configuration.
        model_path: folder (or Hub name) of the model to start from; also the reference model.
        total_updates: calls of ``update`` in the whole run, for the learning-rate schedule.
        rank: of this process, 0 … world − 1.
        world: number of ranks.
        master: ``host:port`` on rank 0's node, free there.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None: a GPU if this process has one and ``learner.gpus`` is not 0.

    Raises:
        UserError: the model cannot be loaded, or this process is in another process group.
    """

    def __init__(
        self,
        config: RLConfig,
        model_path: str,
        total_updates: int,
        rank: int = 0,
        world: int = 1,
        master: str = "127.0.0.1:29500",
        device: str | None = None,
    ):
        self.config = config
        self.model_path = model_path
        self.total_updates = total_updates
        self.rank, self.world = rank, world
        self.device = with_index(torch.device(device)) if device else process_device(config.learner.gpus)
        if self.device.type == "cpu":
            keep_freed_blocks()
            torch.set_num_threads(max(1, int(config.learner.cpus)))
        self._made_group = start_distributed(rank, world, master, self.device, config.ray.update_deadline_s)
        seed_everything(config.seed)
        self.networks = load_networks(config, model_path, self.device)
        self.updater = Updater(config, self.networks, Comm(world, self.device))
        self.updates = 0
        seed_everything(config.seed + 1 + rank)  # ranks differ, should a model's own code draw anything
        self._sender: Any = None
        self._source: Noted | None = None
        self._offloaded: list[Any] = []  # engines whose optimizers are on the CPU
        self._writer = ThreadPoolExecutor(1, "r0-checkpoint")
        self._writing: Future[Entries] | None = None

    # Training ---------------------------------------------------------------------------------------------------------------

    def update(self, groups: Sequence[TrainGroup], version: int, schedule: Schedule | None = None) -> dict[str, float]:
        """One update on this rank's share of a batch; collective.

        Args:
            groups: this rank's groups (may be empty).
            version: of the learner's weights; rollouts may be older by up to ``sync.max_staleness``.
            schedule: groups of each mini-batch of each epoch (see ``batch.Schedule``); None: distributed evenly in order.

        Returns:
            Metrics over all ranks: loss, gap, kl, grad_norm, lr, tokens, …; ``skipped_updates`` counts those that a NaN or an
            infinity kept from changing any weight (see ``trouble``).

        Raises:
            StaleRollout: a rollout's version is not allowed.
        """
        rate = self.learning_rate(self.config.learning_rate)
        set_learning_rate(self.networks.policy, rate)
        if self.networks.critic is not None:
            set_learning_rate(
                self.networks.critic, self.learning_rate(self.config.learner.critic_learning_rate or self.config.learning_rate)
            )
        section = self.config.section
        if schedule is None:
            schedule = even_schedule(len(groups), section.num_ppo_epochs, section.num_mini_batches)
        reached("learner.forward")
        figures = self.updater(groups, version, schedule)
        reached("learner.stepped")
        self.updates += 1
        return figures | {"lr": rate, "shared_prefix": float(self.networks.shared_prefix)}

    def trouble(self) -> Trouble:
        """What was wrong with the newest batch; its samples are those of this rank's share."""
        return self.updater.trouble

    def learning_rate(self, peak: float) -> float:
        """Learning rate of the next update: linear warm-up over the first ``warmup_ratio`` of all updates, then constant or
        cosine to 0."""
        learner = self.config.learner
        warm = math.ceil(learner.warmup_ratio * self.total_updates)
        if self.updates < warm:
            return peak * (self.updates + 1) / warm
        if learner.lr_schedule == "constant":
            return peak
        done = (self.updates - warm) / max(1, self.total_updates - warm)
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    def offload(self) -> None:
        """Free memory of a shared card: move the optimizers to the CPU if DeepSpeed can, and empty torch's cache."""
        engines = [engine for engine in (self.networks.policy, self.networks.critic) if engine is not None]
        if not self._offloaded:
            self._offloaded = [engine for engine in engines if offload_optimizer(engine)]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def reload(self) -> None:
        """The reverse of ``offload``, before an update."""
        while self._offloaded:
            reload_optimizer(self._offloaded.pop())

    # Weight sync ------------------------------------------------------------------------------------------------------------

    def weights(self, dtype: torch.dtype | None = None) -> LearnerWeights:
        """The policy's weights under Hugging Face names; iteration is collective."""
        bucket = self.config.sync.bucket_bytes(self.device.type == "cuda")
        return LearnerWeights(self.networks.policy.module.model, dtype, bucket, self.rank)

    def connect(self, backend: str, workers: list) -> None:
        """Prepare the weight sync to the rollout workers (actor handles, or plain objects)."""
        from r0.actors.sync.sync import make_sender

        if self._sender is not None:  # workers were started again since
            self._sender.close()
        sync = self.config.sync
        bucket = sync.bucket_bytes(self.device.type == "cuda")
        rollout = learner_dtype(self.config, self.device) if self.config.rollout.dtype == "auto" else None
        dtype = rollout or (torch.bfloat16 if self.config.rollout.dtype == "bf16" else torch.float32)
        processes = self.config.rollout.tensor_parallel_size
        self._source = Noted(self.weights(dtype))
        self._sender = make_sender(backend, self._source, workers, self.rank, self.world, sync.deadline_s, bucket, processes)

    def sync(self, version: int) -> float:
        """Send the weights to all rollout workers as ``version``; collective. Returns the seconds it took."""
        if self._sender is None or self._source is None:
            raise RuntimeError("sync before connect")
        reached("learner.sync")
        self._source.digest.take()
        return self._sender.send(version)

    def sent(self) -> str:
        """The digest of what the newest sync took from this rank (see ``sync.digest``); only rank 0's is of whole weights."""
        return self._source.digest.value() if self._source is not None else NOTHING

    # Checkpoints and the final model ----------------------------------------------------------------------------------------

    def save(self, folder: str) -> None:
        """Copy this rank's part of a checkpoint (weights, optimizers, counters, random states) and start to write it into
        ``folder`` in the background; ``saved_files`` reports when it is done."""
        state: State = {"updates": self.updates, "random": random_states(self.device)}
        if self.rank == 0 or not replicated(self.networks.policy):  # otherwise the states of all ranks are the same
            state["policy"] = engine_state(self.networks.policy, self.rank)
            if self.networks.critic is not None:
                state["critic"] = engine_state(self.networks.critic, self.rank)
        self._writing = self._writer.submit(_write, Path(folder), self.rank, state, self._identity())

    def saved_files(self, wait: bool) -> Entries | None:
        """The files that the last ``save`` wrote; None while it is still writing and ``wait`` is false.

        Raises:
            OSError: they could not be written.
        """
        if self._writing is None:
            return {}
        return self._writing.result() if wait or self._writing.done() else None

    def load(self, folder: str) -> str | None:
        """Restore the exact state of ``save``; collective. A checkpoint of another number of ranks or ZeRO stage is reshaped:
        weights and moments are the same, but the run does not repeat bit for bit. Returns that in a sentence.

        Raises:
            UserError: the checkpoint is of another dtype, algorithm or rank of LoRA.
        """
        path = Path(folder)
        saved, mine = json.loads((path / IDENTITY).read_text()), self._identity()
        other = {name: saved.get(name) for name, value in mine.items() if saved.get(name) != value}
        for name in other.keys() - RESHAPED:
            raise UserError(f"{folder} was written with {name}={other[name]}, this run has {mine[name]}; resume with the same")
        count = int(saved["learner.ranks"]) if other else self.world
        own = read_state(path / _state_name(min(self.rank, count - 1)))
        offloaded = bool(self._offloaded)
        self.reload()
        for name, engine in (("policy", self.networks.policy), ("critic", self.networks.critic)):
            if engine is not None:
                load_engine_state(engine, self._engine_state(name, engine, own, path, count if other else 0))
        self.updates = own["updates"]
        set_random_states(own["random"])
        if offloaded:
            self.offload()
        differ = ", ".join(f"{name} {value} there, {mine[name]} here" for name, value in sorted(other.items()))
        return f"{path.name} is reshaped ({differ}): the run does not repeat bit for bit what it was" if other else None

    def _engine_state(self, name: str, engine: Any, own: State, folder: Path, ranks: int) -> State:
        """This rank's state of an engine, or rank 0's where all are the same. Reshaped from ``ranks`` states if that is not 0."""
        if not ranks:
            return own[name] if name in own else read_state(folder / _state_name(0))[name]
        states = [read_state(folder / _state_name(rank)) for rank in range(ranks)]
        sizes = [tensor.numel() for tensor in master_weights(engine)]
        return reshaped([state[name] for state in states if name in state], layout(engine, self.rank), sizes)

    def _identity(self) -> dict[str, Any]:
        learner = self.config.learner
        dtype = str(learner_dtype(self.config, self.device)).removeprefix("torch.")
        return {
            "algo": self.config.algo,
            "learner.ranks": self.world,
            "learner.zero_stage": learner.zero_stage,
            "learner.dtype": dtype,
            "learner.lora.r": learner.lora.r,
        }

    def save_model(self, folder: str) -> None:
        """Write the policy as a Hugging Face folder (LoRA merged, the adapter in ``adapter/``); collective."""
        save_hf(self.weights(), self.model_path, Path(folder))
        if self.world > 1:
            torch.distributed.barrier()

    def node(self) -> str:
        """Name of the node that this rank runs on."""
        return os.uname().nodename

    def close(self) -> None:
        """Leave the process groups."""
        self._writer.shutdown(cancel_futures=True)
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._made_group:
            leave_distributed()


def _state_name(rank: int) -> str:
    return f"rank{rank}.safetensors"


def _write(folder: Path, rank: int, state: State, identity: dict[str, Any]) -> Entries:
    """Write one rank's files of a checkpoint."""
    reached("learner.write")
    folder.mkdir(parents=True, exist_ok=True)
    names = [_state_name(rank)]
    write_state(folder / names[0], state)
    if rank == 0:
        names.append(IDENTITY)
        (folder / IDENTITY).write_text(json.dumps(identity, indent=1) + "\n")
    return {name: entry(folder / name) for name in names}


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states(device: torch.device) -> State:
    """States of torch's generators as tensors (a learner uses no other generators)."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: State) -> None:
    """Restore the states from ``random_states``."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
