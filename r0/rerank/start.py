"""Starts the workers of a reranker: in this process, or on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r0.actors.calls import call_each
from r0.actors.pool import Pool, deferred_class
from r0.actors.rollout.settings import Device, EngineSettings
from r0.actors.rollout.sizes import upper_num_seqs
from r0.config import RankingKeys
from r0.process.gpus import local_gpus
from r0.rerank.cross_encoder import CrossEncoderWorker, is_cross_encoder
from r0.rerank.group import RerankGroup
from r0.rerank.late_interaction import LateInteractionWorker, is_late_interaction
from r0.rerank.methods import concurrent_questions
from r0.rerank.prompt_budget import new_tokens, prompt_budget
from r0.rerank.vector_cache import absolute
from r0.rerank.worker import QUEUED, RerankWorker
from r0.storage.models import model_folder
from r0.storage.positions import positions


def start_workers(keys: RankingKeys, device: Device) -> RerankGroup:
    """Start the workers of a configuration.

    Raises:
        UserError: model, engine and configuration do not fit.
    """
    folder = model_folder(keys.model)
    work, arguments, capacity = _worker(keys, folder, device)
    limits = (keys.ray.sample_deadline_s, keys.ray.start_deadline_s)
    if keys.ray.inline:
        return RerankGroup(Pool("rerank", lambda _: work(*arguments), 1), capacity, *limits)
    pool, placement = _on_ray(keys, folder, work, arguments)
    return RerankGroup(pool, capacity, *limits, placement)


def _on_ray(keys: RankingKeys, folder: Path, work: type, arguments: tuple) -> tuple[Pool, Any]:
    """The workers as Ray actors, and their placement."""
    import ray

    from r0.actors.cluster import start_ray
    from r0.actors.placement import Placement, check_nodes

    need = start_ray(keys)
    check_nodes(folder)
    placement = Placement(need)
    actor = ray.remote(deferred_class(work))
    pool = None
    try:
        pool = Pool("rerank", lambda i: actor.options(**placement.options("rollout", i)).remote(*arguments), len(need))
        call_each(pool.workers, "start", [()] * len(need), keys.ray.start_deadline_s, "rerank worker")
    except BaseException:
        if pool is not None:
            pool.close(gently=False)
        placement.close()
        raise
    return pool, placement


def _worker(keys: RankingKeys, folder: Path, device: Device) -> tuple[type, tuple, int]:
    """The worker class for the model in ``folder``, its arguments, and the maximum number of queries per worker.

    Raises:
        UserError: model and configuration do not fit.
    """
    gpus = device != "cpu" and local_gpus() > 0
    most = QUEUED * upper_num_seqs(keys.rollout.max_num_seqs, gpus)
    late = is_late_interaction(folder, keys)
    if late or is_cross_encoder(folder, keys):
        settings = EngineSettings.of_rollout(keys.rollout, str(folder), positions(folder) or 0, device=device)
        many = max(2, QUEUED * settings.batch)  # however short the queries' lists are, an encoder's batches are full
        if not late:
            return CrossEncoderWorker, (keys, settings), many
        keys = keys.model_copy(update={"vector_cache": absolute(keys.vector_cache)})
        return LateInteractionWorker, (keys, settings), many
    prompt_tokens = prompt_budget(keys, folder)
    length = prompt_tokens + new_tokens(keys)
    settings = EngineSettings.of_rollout(keys.rollout, str(folder), length, device=device)
    return RerankWorker, (keys, settings, prompt_tokens), max(2, -(-most // concurrent_questions(keys, keys.depth)))
