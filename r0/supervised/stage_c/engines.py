"""The sampling engines of stage C, started when they are needed and closed before the ranks train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from r0.actors.calls import call_each
from r0.actors.placement import Placement, cluster_gpus, rollout_bundles
from r0.actors.pool import Pool, deferred_class
from r0.actors.rollout.group import RolloutGroup
from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.worker import RolloutWorker
from r0.config import StageCConfig
from r0.supervised.stage_c.list_prompter import length


@contextlib.contextmanager
def engines(config: StageCConfig, folder: Path) -> Iterator[RolloutGroup]:
    """Workers with the model in ``folder``: in this process with ``ray.inline=true``, else Ray actors (Ray must be running).

    Raises:
        UserError: the engine is not installed; the resources are not free.
        RoleTimeout: a worker is not ready in time.
    """
    settings = EngineSettings.of_rollout(config.rollout, str(folder), length(config))
    if config.ray.inline:
        pool = Pool("rollout", lambda index: RolloutWorker(settings, index), 1)
        try:
            yield RolloutGroup(pool, config.ray.sample_deadline_s)
        finally:
            pool.close()
        return
    import ray

    need = rollout_bundles(config.rollout, has_gpus=cluster_gpus() > 0)
    actor = ray.remote(deferred_class(RolloutWorker))
    with contextlib.ExitStack() as stack:
        placement = Placement(need)
        stack.callback(placement.close)
        pool = Pool(
            "rollout",
            lambda index: actor.options(**placement.options("rollout", index)).remote(settings, index),
            len(need),
        )
        stack.push(lambda kind, *_: pool.close(gently=kind is None))
        call_each(pool.workers, "start", [()] * len(need), config.ray.start_deadline_s, "rollout worker")
        yield RolloutGroup(pool, config.ray.sample_deadline_s)
