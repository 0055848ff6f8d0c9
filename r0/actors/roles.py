"""The roles of a run, built inline or on Ray, and what only concerns them together: starting, connecting, syncing, ending."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from r0.actors.learner.group import LearnerGroup
from r0.actors.learner.worker import Learner
from r0.actors.placement import Bundle, Placement, local_gpus
from r0.actors.pool import Pool, call_each, deferred_class
from r0.actors.reward import RewardGroup, RewardWorker
from r0.actors.rollout.engine import transfer_backend
from r0.actors.rollout.worker import RolloutGroup, RolloutWorker
from r0.config import RLConfig

logger = logging.getLogger(__name__)


@dataclass
class Roles:
    """Rollout, reward and learner workers of one run."""

    config: RLConfig
    rollout: RolloutGroup
    reward: RewardGroup
    learner: LearnerGroup
    pools: tuple[Pool, ...]
    placement: Any = None

    def connect(self) -> None:
        """Open the way for weights from the learner to the rollout workers."""
        self.learner.connect(transfer_backend(self.config, _uses_gpus(self.config)), self.rollout.workers)

    def sync(self, version: int) -> None:
        """Hand the learner's weights to every rollout worker as ``version``.

        Raises:
            RuntimeError: a worker holds another version afterwards.
        """
        self.learner.sync(version)
        held = self.rollout.versions()
        if set(held) != {version}:
            raise RuntimeError(f"after the sync of version {version} the rollout workers hold {held}")

    def close(self) -> None:
        """End every worker and give its resources back."""
        for pool in self.pools:
            pool.close()
        if self.placement is not None:
            self.placement.close()


def inline(config: RLConfig, model: str, total_updates: int) -> Roles:
    """All roles as plain objects in this process."""
    learner = Pool("learner", lambda _: Learner(config, model, total_updates), 1)
    rollout = Pool("rollout", lambda _: RolloutWorker(config, model), 1)
    reward = Pool("reward", lambda _: RewardWorker(model, config.reward), 1)
    return _roles(config, rollout, reward, learner)


def on_ray(config: RLConfig, model: str, total_updates: int, need: Sequence[Bundle]) -> Roles:
    """All roles as Ray actors in one placement group, started at the same time.

    Raises:
        UserError: the resources are not free; a role refuses its part of the configuration.
        RoleTimeout: a role is not ready within ``ray.start_deadline_s``.
    """
    placement = Placement(need)
    master = placement.master()
    ranks = config.learner.ranks

    def actor(cls: type, role: str, arguments: Callable[[int], tuple], deferred: bool = True) -> Callable[[int], Any]:
        import ray

        return lambda index: (
            ray.remote(deferred_class(cls) if deferred else cls)
            .options(name=None, **placement.options(role, index))
            .remote(*arguments(index))
        )

    pools: list[Pool] = []
    try:
        for role, cls, arguments, size, deferred in (
            ("learner", Learner, lambda rank: (config, model, total_updates, rank, ranks, master), ranks, True),
            ("rollout", RolloutWorker, lambda index: (config, model, index), config.rollout.workers, True),
            ("reward", RewardWorker, lambda index: (model, config.reward), config.reward.workers, False),
        ):
            pools.append(Pool(role, actor(cls, role, arguments, deferred), size))
        waiting = [worker for pool in pools[:2] for worker in pool.workers]
        call_each(waiting, "start", [()] * len(waiting), config.ray.start_deadline_s, "role")
        learner, rollout, reward = pools
        return _roles(config, rollout, reward, learner, placement)
    except BaseException:
        for pool in pools:
            pool.close()
        placement.close()
        raise


def _roles(config: RLConfig, rollout: Pool, reward: Pool, learner: Pool, placement: Any = None) -> Roles:
    return Roles(
        config,
        RolloutGroup(rollout, deadline_s=config.ray.sample_deadline_s),
        RewardGroup(reward, config.reward.deadline_s, config.ray.start_deadline_s),
        LearnerGroup(learner, config),
        (rollout, reward, learner),
        placement,
    )


def _uses_gpus(config: RLConfig) -> bool:
    """Whether learner and rollout run on GPUs."""
    if config.ray.inline:
        return local_gpus() > 0
    import ray

    return ray.cluster_resources().get("GPU", 0) > 0
