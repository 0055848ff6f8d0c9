"""Which card learner and engines of reinforcement learning share, and how weights get from one to the other.

Decided from the configuration and from whether there are GPUs, so that what cannot work is refused before anything loads.
"""

from __future__ import annotations

from typing import Literal, Protocol

from r0.config.sections import LearnerSection, RaySection, RolloutSection, SyncSection

Backend = Literal["local", "gloo", "nccl", "ipc"]
ROUNDING = 1e-9  # 0.7 + 0.3 is one card
ONE_CARD = "give learner and engine one card together (learner.gpus=0.4 rollout.gpus=0.6)"
WHOLE_CARDS = "leave learner.gpus and rollout.gpus empty for whole cards"


class RoleSections(Protocol):
    """The sections of a configuration that say where learner and engines run."""

    @property
    def learner(self) -> LearnerSection: ...  # noqa: D102
    @property
    def rollout(self) -> RolloutSection: ...  # noqa: D102
    @property
    def sync(self) -> SyncSection: ...  # noqa: D102
    @property
    def ray(self) -> RaySection: ...  # noqa: D102


def check_cards(config: RoleSections) -> None:
    """Refuse placements that cannot work on any cluster.

    Raises:
        ValueError: names the key and the remedy.
    """
    learner, rollout = config.learner, config.rollout
    if learner.gpus is not None and learner.gpus > 1:
        raise ValueError(f"learner.gpus: a rank works on one GPU, not on {learner.gpus:g}; use learner.ranks for more GPUs")
    if learner.ranks > 1 and 0 < _learner_gpus(config) < 1:
        raise ValueError(
            f"learner.gpus: {learner.ranks} ranks need a whole GPU each, because NCCL refuses two ranks on one card; "
            "use learner.gpus=1, or learner.ranks=1"
        )
    if config.ray.inline and rollout.tensor_parallel_size > 1:
        raise ValueError(
            "rollout.tensor_parallel_size: ray.inline=true hands weights over within one process; use 1, or ray.inline=false"
        )
    transfer_backend(config, gpus=True)


def check_ahead(config: RoleSections) -> None:
    """Refuse to sample while the learner updates where the two take turns.

    Raises:
        ValueError: names the key and the remedy.
    """
    if config.ray.inline:
        raise ValueError(
            "sync.max_staleness: ray.inline=true has learner and engine in one process, where they take turns; "
            "use 0, or ray.inline=false"
        )
    if shares_card(config, gpus=True):
        raise ValueError(
            f"sync.max_staleness: learner and engine share a card and take turns on it; use 0, or {WHOLE_CARDS}"
        )


def transfer_backend(config: RoleSections, gpus: bool) -> Backend:
    """The way of the weights from learner to engines: as configured, or what fits the engine and its devices.

    Args:
        config: the configuration.
        gpus: whether the machine or the cluster has GPUs.

    Raises:
        ValueError: the configured way, or any, cannot work; names the key and the remedy.
    """
    backend, rollout = config.sync.backend, config.rollout
    if backend in ("nccl", "ipc"):
        if rollout.engine == "hf":
            raise ValueError(f"sync.backend: {backend} needs vLLM; with rollout.engine=hf use auto or gloo")
        if config.ray.inline:
            raise ValueError(f"sync.backend: {backend} needs an engine in a process of its own; with ray.inline=true use auto")
        if not gpus or not _both_on_gpus(config):
            raise ValueError(f"sync.backend: {backend} needs learner and engines on GPUs; use auto or gloo")
    if backend == "auto" and config.ray.inline:
        return "local"
    if backend == "gloo" or rollout.engine == "hf" or not gpus or not _both_on_gpus(config):
        return "gloo"
    if backend == "ipc" or (backend == "auto" and _fits_one_card(config)):
        _check_ipc(config)
        return "ipc"
    _check_nccl(config)
    return "nccl"


def shares_card(config: RoleSections, gpus: bool) -> bool:
    """Whether the learner and the only vLLM engine are on one GPU."""
    if config.rollout.engine == "hf" or not gpus or not _both_on_gpus(config):
        return False
    return config.ray.inline or (_fits_one_card(config) and config.rollout.workers == 1)


def _check_ipc(config: RoleSections) -> None:
    if not _fits_one_card(config):
        raise ValueError(
            "sync.backend: ipc is for one learner rank and one engine on the same card, without tensor parallelism; "
            f"{ONE_CARD}, or use auto"
        )
    if config.rollout.workers > 1:
        raise ValueError(
            f"rollout.workers: {config.rollout.workers} engines on the learner's card cannot share its buffer of weights; "
            f"use rollout.workers=1, or {WHOLE_CARDS}"
        )


def _check_nccl(config: RoleSections) -> None:
    learner, rollout = _learner_gpus(config), _rollout_gpus(config)
    engines_meet = config.rollout.workers > 1 and 2 * rollout <= 1 + ROUNDING
    if learner + rollout <= 1 + ROUNDING or engines_meet:
        who = "two engines" if engines_meet else "learner and engine"
        raise ValueError(
            f"rollout.gpus: with learner.gpus={learner:g} and rollout.gpus={rollout:g}, {who} can be on the same card, "
            f"which NCCL refuses; {WHOLE_CARDS}, or {ONE_CARD} with learner.ranks=1, rollout.workers=1 and sync.backend=auto"
        )


def _fits_one_card(config: RoleSections) -> bool:
    learner, rollout = _learner_gpus(config), _rollout_gpus(config)
    alone = config.learner.ranks == 1 and config.rollout.tensor_parallel_size == 1
    return alone and learner + config.rollout.workers * rollout <= 1 + ROUNDING


def _both_on_gpus(config: RoleSections) -> bool:
    return _learner_gpus(config) > 0 and _rollout_gpus(config) > 0


def _learner_gpus(config: RoleSections) -> float:
    return 1.0 if config.learner.gpus is None else config.learner.gpus


def _rollout_gpus(config: RoleSections) -> float:
    rollout = config.rollout
    return float(rollout.tensor_parallel_size) if rollout.gpus is None else rollout.gpus
