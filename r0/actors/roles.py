"""The roles of a run, created inline or on Ray, and the operations that involve several of them: start, connect, sync, close."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r0.actors.calls import RoleDied, RoleTimeout, call_each
from r0.actors.learner.group import LearnerGroup, LearnerLost
from r0.actors.learner.worker import Learner
from r0.actors.memory.learner import learner_rank
from r0.actors.memory.lookup import look_up_folder
from r0.actors.placement import Bundle, Placement, cluster_gpus, warn_about_unused_gpus
from r0.actors.pool import Pool, deferred_class
from r0.actors.restarts import Restarts
from r0.actors.reward.group import RewardGroup
from r0.actors.reward.worker import RewardWorker, load_tokenizer
from r0.actors.rollout.group import RolloutGroup, RolloutsLost
from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.worker import RolloutWorker
from r0.actors.sync.digest import NOTHING
from r0.actors.sync.transfer import TransferError
from r0.config import RLConfig
from r0.errors import RunFailed, reason
from r0.process.allocator import learner_variables
from r0.process.gpus import check_vllm, cuda_available, local_gpus
from r0.process.objects import ObjectsLost
from r0.records import UnreadGroup
from r0.rewards.token_limit import TokenLimit

logger = logging.getLogger(__name__)


@dataclass
class Roles:
    """Rollout, reward and learner workers of one run.

    With ``engine.sleep``, learner and engine take turns on one card: the engine sleeps while the learner updates; then the
    learner's optimizers move to the CPU, and the sync wakes the engine. A sleeping engine has no weights, so nothing can be
    sampled between ``learn`` and ``sync``; after a sync it stays awake until the next ``learn``.

    A run with recorded ``rollouts`` has no rollout and reward workers, one with ``rollouts_only`` no learner: their
    pools are empty.
    """

    config: RLConfig
    engine: EngineSettings
    rollout: RolloutGroup
    reward: RewardGroup
    learner: LearnerGroup
    pools: tuple[Pool, ...]
    restarts: Restarts
    placement: Any = None
    new_learner: Callable[[], None] | None = None  # kills all ranks and starts new ones; None: inline
    version: int = 0  # of the weights that the rollout workers have, or are receiving

    def __post_init__(self) -> None:
        self.rollout.give_weights = self._give_weights if self.config.learns else None

    def connect(self) -> None:
        """Connect learner and rollout workers for weight syncs, if there are both. Workers that failed are restarted.

        Raises:
            RunFailed: workers failed too often; a learner rank is lost.
        """
        if not self.config.samples:
            return
        try:
            self._connect()
        except (RoleTimeout, RoleDied, TransferError) as error:
            failed = self.rollout.failed()
            if self.config.ray.inline or not failed:
                raise
            logger.warning("learner and rollout workers do not connect: %s", reason(error))
            self.rollout.restart(failed, give_weights=False)
            self._connect()

    def _connect(self) -> None:
        self.learner.connect(self.engine.transfer, self.rollout.workers)

    def learn(self, groups: Sequence[UnreadGroup], step: int, leave: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Update on the rollouts of ``step``, which were sampled with weight version ``step``, or with the one before where the
        engines sample ahead; see ``LearnerGroup.update``."""
        self.learner.expect(self.rollout.slowest_s)
        if not self.engine.sleep:
            return self.learner.update(groups, version=step, step=step, leave=leave)
        self.rollout.sleep()
        self.learner.reload()
        figures = self.learner.update(groups, version=step, step=step, leave=leave)
        self.learner.offload()
        return figures

    def sync(self, version: int) -> None:
        """Send the learner's weights to every rollout worker, if there is one, as ``version``. Workers that fail during the sync
        are restarted.

        Raises:
            RunFailed: workers failed too often; a learner rank is lost; a worker has another version afterwards, or has not
                received what the learner sent.
        """
        self.version = version
        if not self.config.samples:
            return
        if self.rollout.lost:  # they failed while the learner updated
            self.rollout.restart({})
            return
        try:
            self.learner.sync(version)
        except (RoleTimeout, RoleDied, TransferError) as error:
            failed = self.rollout.failed()
            if self.config.ray.inline or not failed:
                raise
            logger.warning("the sync of version %d broke off: %s", version, reason(error))
            self.rollout.restart(failed)
        self._check_weights()

    def _check_weights(self) -> None:
        """Check that every rollout worker has received what the learner sent, all of it, as the current version.

        Raises:
            RunFailed: one has not.
        """
        version, held = self.version, self.rollout.versions()
        if set(held) != {version}:
            raise RunFailed(f"after the sync of version {version} the rollout workers hold {held}; run the same command again")
        sent, received = self.learner.sent(), self.rollout.received()
        if sent == NOTHING or set(received) != {sent}:
            raise RunFailed(
                f"after the sync of version {version} the rollout workers have received {received}, the learner sent {sent} "
                "(tensors and their hash): the engines do not hold the learner's weights; run the same command again"
            )

    def _give_weights(self) -> dict[int, Exception]:
        """Reconnect and send the current weights; returns the rollout workers that failed during it."""
        try:
            self._connect()
            self.learner.sync(self.version)
        except (RoleTimeout, RoleDied, TransferError):
            failed = self.rollout.failed()
            if not failed:
                raise
            return failed
        self._check_weights()
        return {}

    def restart(self, lost: LearnerLost | RolloutsLost | ObjectsLost) -> None:
        """Start new learner ranks, and the rollout workers that are lost; all hold the weights of the model folder.

        Raises:
            RunFailed: it happened too often.
        """
        if self.new_learner is None:
            raise lost
        if self.rollout.lost:
            self.rollout.restart({}, give_weights=False)  # they fail together, and count once
        else:
            self.restarts.count(lost)
        self.new_learner()

    def close(self, gently: bool = True) -> None:
        """Close every worker and release its resources; ``gently=False`` does not wait for what they are doing."""
        for pool in self.pools:
            pool.close(gently)
        if self.placement is not None:
            self.placement.close()


def inline(config: RLConfig, model: str, total_updates: int) -> Roles:
    """All roles as plain objects in this process.

    Raises:
        UserError: a role cannot use its part of the configuration; torch or vLLM cannot use the GPU.
    """
    gpus = local_gpus() > 0 and cuda_available()
    engine = _engine_settings(config, model, gpus)
    warn_about_unused_gpus()
    if engine.engine == "vllm" and config.samples:
        check_vllm(on_gpu=engine.device != "cpu")
    device = "cpu" if config.learner.gpus == 0 else None
    learner = Pool("learner", lambda _: Learner(config, model, total_updates, device=device), int(config.learns))
    if engine.sleep:
        LearnerGroup(learner, config).offload()  # before the engine measures the free memory
    rollout = Pool("rollout", lambda _: RolloutWorker(engine), int(config.samples))
    tokenizer, ends = load_tokenizer(model)
    judge = (tokenizer, config.reward, ends, TokenLimit.of(config))
    reward = Pool("reward", lambda _: RewardWorker(*judge), int(config.samples))
    return _roles(config, engine, rollout, reward, learner)


def on_ray(config: RLConfig, model: str, total_updates: int, need: Sequence[Bundle]) -> Roles:
    """All roles as Ray actors in one placement group. They start at the same time, except an engine that shares a card with the
    learner: it starts after the learner.

    Raises:
        UserError: the resources are not free; a role cannot use its part of the configuration.
        RoleTimeout: a role is not ready within ``ray.start_deadline_s``.
    """
    engine = _engine_settings(config, model, gpus=cluster_gpus() > 0)
    placement = Placement(need)
    count = Counter(bundle.role for bundle in need)
    ranks, master = count["learner"], ""  # the address at which the ranks meet
    on_gpu = any(bundle.gpus for bundle in need if bundle.role == "learner")
    device = None if on_gpu else "cpu"  # Ray does not hide GPUs from workers without one

    def pool(role: str, cls: type, arguments: Callable[[int], tuple], size: int, deferred: bool = True) -> Pool:
        import ray

        actor = ray.remote(deferred_class(cls) if deferred else cls)
        variables = learner_variables(engine.transfer) if role == "learner" and device is None else {}
        made = Pool(role, lambda i: actor.options(name=None, **placement.options(role, i, variables)).remote(*arguments(i)), size)
        pools.append(made)
        return made

    def start(*started: Pool) -> None:
        waiting = [worker for each in started for worker in each.workers]
        call_each(waiting, "start", [()] * len(waiting), config.ray.start_deadline_s, "role")

    def new_learner() -> None:
        nonlocal master
        master = placement.master()  # the former port may still be in use
        learner.replace_all()
        start(learner)
        if engine.sleep:
            LearnerGroup(learner, config).offload()

    pools: list[Pool] = []
    try:
        master = placement.master() if ranks else ""
        learner = pool("learner", Learner, lambda rank: (config, model, total_updates, rank, ranks, master, device), ranks)
        rollout = pool("rollout", RolloutWorker, lambda index: (engine, index), count["rollout"])
        tokenizer, ends = load_tokenizer(model)
        judge = (tokenizer, config.reward, ends, TokenLimit.of(config))
        reward = pool("reward", RewardWorker, lambda _: judge, count["reward"], deferred=False)
        if engine.shared_card:
            start(learner)
            if engine.sleep:
                LearnerGroup(learner, config).offload()
            start(rollout)
        else:
            start(learner, rollout)
        return _roles(config, engine, rollout, reward, learner, placement, new_learner)
    except BaseException:
        for each in pools:
            each.close(gently=False)
        placement.close()
        raise


def _engine_settings(config: RLConfig, model: str, gpus: bool) -> EngineSettings:
    """The engine's settings. On a shared card the engine starts before the learner's first update allocates AdamW's moments, so
    the part of them that will stay on the card must be subtracted from the free memory.

    Raises:
        UserError: weights cannot be sent from the learner to the engines as configured.
    """
    engine = EngineSettings.of(config, model, gpus)
    known = look_up_folder(Path(model)) if engine.shared_card else None
    if known is None:
        return engine
    rank = learner_rank(config, known[1], checkpointing=False)
    return replace(engine, learner_growth=rank.idle - rank.start)


def _roles(
    config: RLConfig,
    engine: EngineSettings,
    rollout: Pool,
    reward: Pool,
    learner: Pool,
    placement: Any = None,
    new_learner: Callable[[], None] | None = None,
) -> Roles:
    limits, restarts = config.ray, Restarts(config.ray.max_restarts)
    return Roles(
        config,
        engine,
        RolloutGroup(rollout, limits.sample_deadline_s, limits.start_deadline_s, restarts),
        RewardGroup(reward, config.reward, limits.start_deadline_s),
        LearnerGroup(learner, config),
        (rollout, reward, learner),
        restarts,
        placement,
        new_learner,
    )
