"""The learner: a plain class for one rank, usable without Ray (``group.py`` is the driver's side)."""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r0.actors.calls import end_quietly, is_left
from r0.actors.learner.batch import Schedule, read_groups
from r0.actors.learner.batch_fault import BatchFault
from r0.actors.learner.comm import Comm
from r0.actors.learner.networks import learner_dtype, load_networks
from r0.actors.learner.saved_state import SavedState
from r0.actors.learner.shares import even_schedule
from r0.actors.learner.update import Left, Updater
from r0.actors.learner.zero import (
    leave_distributed,
    offload_optimizer,
    reload_optimizer,
    set_learning_rate,
    start_distributed,
)
from r0.actors.sync.digest import NOTHING, Noted
from r0.actors.sync.weights import LearnerWeights, save_hf
from r0.config import RLConfig
from r0.process.allocator import keep_freed_blocks
from r0.process.device import process_device, with_index
from r0.process.faults import reached
from r0.process.spans import Traced, record, span
from r0.records import Group
from r0.storage.manifest import Entries


class Learner(Traced):
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
        self.updater = Updater(config, self.networks, Comm(world, self.device), is_left)
        self._saved = SavedState(config, self.networks, rank, world, self.device)
        self.updates = 0
        self._newest: tuple[int, dict[str, float] | None] | None = None  # version and figures of the newest update; None: no end
        seed_everything(config.seed + 1 + rank)  # ranks differ, should a model's own code draw anything
        self._sender: Any = None
        self._source: Noted | None = None
        self._offloaded: list[Any] = []  # engines whose optimizers are on the CPU

    # Training ---------------------------------------------------------------------------------------------------------------

    def update(self, groups: Sequence[Group], version: int, schedule: Schedule | None = None) -> dict[str, float]:
        """One update on this rank's share of a batch; collective.

        Args:
            groups: this rank's groups (may be empty).
            version: of the learner's weights; rollouts may be older by up to ``sync.max_staleness``.
            schedule: groups of each mini-batch of each epoch (see ``batch.Schedule``); None: distributed evenly in order.

        Returns:
            Metrics over all ranks: loss, gap, kl, grad_norm, lr, rows, …; ``skipped_updates`` counts those that a NaN or an
            infinity kept from changing any weight (see ``batch_fault``). None where the caller left before a weight changed.

        Raises:
            StaleRollout: a rollout's version is not allowed.
            ObjectsLost: rollouts are gone with the machine that held them.
        """
        self._newest = version, None
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
        read = read_groups(groups)
        found: dict[str, float] = {}
        tokens = sum(sum(group.lengths) for group in read)
        with span("learner", "update", groups=len(read), tokens=tokens), contextlib.suppress(Left):
            figures = self.updater(read, version, schedule)
            reached("learner.stepped")
            self.updates += 1
            found = figures | {"lr": rate, "shared_prefix": float(self.networks.shared_prefix)}
        self._newest = version, found
        return found

    def figures(self, version: int) -> dict[str, float]:
        """What the newest ``update`` of the weights ``version`` returned, for a caller who has left it; empty if it never began.

        Raises:
            RuntimeError: it failed, and nobody has seen its error.
        """
        begun, found = self._newest or (None, None)
        if begun != version:
            return {}
        if found is None:
            raise RuntimeError("the update failed after it was left; weights may be half updated, the last checkpoint is good")
        return found

    def batch_fault(self) -> BatchFault:
        """What was wrong with the newest batch; its samples are those of this rank's share."""
        return self.updater.fault

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
        with span("learner", "send weights"):
            return self._sender.send(version)

    def sent(self) -> str:
        """The digest of what the newest sync took from this rank (see ``sync.digest``); only rank 0's is of whole weights."""
        return self._source.sent() if self._source is not None else NOTHING

    # Checkpoints and the final model ----------------------------------------------------------------------------------------

    def save(self, folder: str) -> None:
        """Copy this rank's part of a checkpoint and start to write it into ``folder``; ``saved_files`` tells when it is done."""
        with span("learner", "copy the state"):
            self._saved.save(Path(folder), self.updates)

    def saved_files(self, wait: bool) -> Entries | None:
        """The files that the last ``save`` wrote; None while it is still writing and ``wait`` is false.

        Raises:
            OSError: they could not be written.
        """
        return self._saved.files(wait)

    def load(self, folder: str) -> str | None:
        """Restore the exact state of ``save``; collective. If the checkpoint is of another number of ranks or ZeRO stage, weights
        and moments are the same, but the run does not repeat bit for bit; then it returns that in a sentence.

        Raises:
            UserError: the checkpoint is of another dtype, algorithm or rank of LoRA.
        """
        offloaded = bool(self._offloaded)
        self.reload()
        self.updates, note = self._saved.load(Path(folder))
        if offloaded:
            self.offload()
        return note

    def save_model(self, folder: str) -> None:
        """Write the policy as a Hugging Face folder (LoRA merged, the adapter in ``adapter/``); collective."""
        save_hf(self.weights(), self.model_path, Path(folder))
        if self.world > 1:
            torch.distributed.barrier()

    def record_spans(self) -> None:
        """See ``Traced``. A GPU works on after a call returns, so every span waits for it."""
        record(torch.cuda.synchronize if self.device.type == "cuda" else None)

    def node(self) -> str:
        """Name of the node that this rank runs on."""
        return os.uname().nodename

    def close(self) -> None:
        """Leave the process groups."""
        self._saved.close()
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._made_group:
            leave_distributed()
        end_quietly()


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
