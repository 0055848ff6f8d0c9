"""The resources that a run needs, a check that Ray has them, and the placement of each role.

Each worker needs one bundle. If the declared resources are too small, the run is refused before anything loads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r0.config import RankingKeys, RankKeys, RLConfig, RolloutSection, StageCConfig, TrainingKeys
from r0.errors import UserError
from r0.process.environment import WORKER_VARIABLES
from r0.process.gpus import cards, check_vllm, torch_for_cpus
from r0.process.ports import free_port

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bundle:
    """The resources of one worker of a role."""

    role: str
    cpus: float
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """In Ray's format."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


def bundles(config: TrainingKeys | RankingKeys, has_gpus: bool) -> list[Bundle]:
    """One bundle per worker; learner ranks come first, so that rank 0's node is the master."""
    if isinstance(config, RankKeys):
        gpus = config.gpus if config.gpus is not None else float(has_gpus)
        return [Bundle("rank", config.cpus, gpus)] * config.ranks
    if not isinstance(config, RLConfig | RankingKeys):
        raise TypeError(f"no placement for {type(config).__name__}")
    rollouts = rollout_bundles(config.rollout, has_gpus)
    if isinstance(config, RankingKeys):
        return rollouts
    rewards = [Bundle("reward", 1.0, 0.0)] * config.reward.workers
    if not config.learns:
        return [*rollouts, *rewards]
    learner = config.learner
    learner_gpus = learner.gpus if learner.gpus is not None else float(has_gpus)
    ranks = [Bundle("learner", learner.cpus, learner_gpus)] * learner.ranks
    return [*ranks, *rollouts, *rewards] if config.samples else ranks


def rollout_bundles(rollout: RolloutSection, has_gpus: bool) -> list[Bundle]:
    """One bundle per sampling worker."""
    gpus = rollout.gpus if rollout.gpus is not None else float(rollout.tensor_parallel_size * has_gpus)
    return [Bundle("rollout", rollout.cpus, gpus)] * rollout.workers


def phases(config: TrainingKeys | RankingKeys, has_gpus: bool) -> list[list[Bundle]]:
    """The bundles that the run needs in each phase: stage C's engines and ranks run one after the other."""
    engines = [rollout_bundles(config.rollout, has_gpus)] if isinstance(config, StageCConfig) else []
    return [*engines, bundles(config, has_gpus)]


def available_cores() -> int:
    """CPU cores of this machine that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def cluster_gpus() -> float:
    """GPUs of the cluster that this process has joined; 0 if the installed torch cannot use GPUs."""
    import ray

    return 0.0 if torch_for_cpus() else ray.cluster_resources().get("GPU", 0.0)


def warn_about_unused_gpus() -> None:
    """Warn if this machine has GPUs and the installed torch cannot use them."""
    if torch_for_cpus() and cards():
        logger.warning(
            "this machine has GPUs, but PyTorch's CPU build is installed, so everything runs on the CPU; "
            "install r0's extra gpu in a new environment to use them"
        )


def check_engines(config: TrainingKeys | RankingKeys, needs: Sequence[Sequence[Bundle]]) -> None:
    """Check before workers start that the installed vLLM can sample on their devices.

    Raises:
        UserError: it cannot.
    """
    if not isinstance(config, RLConfig | StageCConfig) or config.rollout.engine != "vllm":
        return  # a reranker may be an encoder, which needs no vLLM
    if isinstance(config, RLConfig) and not config.samples:
        return
    check_vllm(on_gpu=any(bundle.gpus for need in needs for bundle in need if bundle.role == "rollout"))


def check(need: Sequence[Bundle], nodes: Sequence[dict[str, float]]) -> None:
    """Check that the declared resources suffice, in total and on each node.

    Raises:
        UserError: they do not.
    """
    for kind, remedy in (("CPU", "cpus"), ("GPU", "gpus")):
        wanted = sum(bundle.resources.get(kind, 0.0) for bundle in need)
        have = sum(node.get(kind, 0.0) for node in nodes)
        if wanted > have + 1e-9:
            one = ", or share the card with learner.gpus=0.4 rollout.gpus=0.6" if _could_share(need, kind, have) else ""
            raise UserError(
                f"the run needs {wanted:g} {kind} ({_sum_up(need, kind)}) and Ray has {have:g}; "
                f"lower the number of workers or their {remedy}{one}, or join a larger cluster"
            )
    free = [dict(node) for node in nodes]
    for bundle in sorted(need, key=lambda item: (-item.gpus, -item.cpus)):
        home = next((node for node in free if all(node.get(k, 0) >= v - 1e-9 for k, v in bundle.resources.items())), None)
        if home is None:
            largest = ", ".join(f"{node.get('CPU', 0):g} CPU + {node.get('GPU', 0):g} GPU" for node in nodes)
            raise UserError(
                f"no node can hold a {bundle.role} worker of {bundle.cpus:g} CPU + {bundle.gpus:g} GPU beside the others; "
                f"the nodes have {largest}"
            )
        for kind, amount in bundle.resources.items():
            home[kind] -= amount


def _could_share(need: Sequence[Bundle], kind: str, have: float) -> bool:
    """Whether one learner and one engine need a card each, and there is only one card."""
    on_gpus = [bundle for bundle in need if bundle.gpus]
    return kind == "GPU" and have == 1 and [(each.role, each.gpus) for each in on_gpus] == [("learner", 1.0), ("rollout", 1.0)]


def _sum_up(need: Sequence[Bundle], kind: str) -> str:
    roles = dict.fromkeys(bundle.role for bundle in need)
    amounts = {role: [b.resources.get(kind, 0.0) for b in need if b.role == role] for role in roles}
    return ", ".join(f"{role} {len(each)} × {each[0]:g}" for role, each in amounts.items() if each[0])


def check_nodes(model: Path, output: Path | None = None) -> None:
    """Check on every node of the cluster, before anything loads, that the model can be read and the output can be written (if
    workers write it).

    Raises:
        UserError: a node cannot access one of them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    if len(nodes) < 2:
        return
    task = ray.remote(_missing_paths)
    asked = {
        node["NodeManagerAddress"]: task.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(str(model), str(output) if output else None)
        for node in nodes
    }
    for address, answer in asked.items():
        for problem in ray.get(answer, timeout=60):
            raise UserError(f"node {address}: {problem}; use a file system that all nodes share")


def _missing_paths(model: str, output: str | None) -> list[str]:
    """The paths that this node cannot access, as messages."""
    problems = [] if os.path.isfile(os.path.join(model, "config.json")) else [f"model {model} is not there"]
    return problems + ([] if output is None or os.access(output, os.W_OK) else [f"output {output} cannot be written"])


class Placement:
    """A placement group with one bundle per worker.

    Raises:
        UserError: the resources are not free within ``deadline_s`` seconds.
    """

    def __init__(self, need: Sequence[Bundle], deadline_s: float = 60.0):
        import ray
        from ray.util.placement_group import placement_group

        self.need = list(need)
        self._group = placement_group([bundle.resources for bundle in need], strategy="PACK")
        if not self._group.wait(timeout_seconds=deadline_s):
            free = ray.available_resources()
            self.close()
            raise UserError(
                f"Ray did not free the run's resources within {deadline_s:g} s: free are {free.get('CPU', 0):g} CPU and "
                f"{free.get('GPU', 0):g} GPU; wait for the other jobs, or lower the need"
            )

    def options(self, role: str, index: int, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Ray options of worker ``index`` of ``role``: its bundle, threads and environment ``variables``."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = self.bundle_index(role, index)
        threads = str(max(1, int(self.need[bundle].cpus)))
        return {
            "num_cpus": self.need[bundle].cpus,
            "num_gpus": self.need[bundle].gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle),
            "runtime_env": {"env_vars": {**WORKER_VARIABLES, **(variables or {}), "OMP_NUM_THREADS": threads}},
            "max_restarts": 0,
        }

    def master(self) -> str:
        """``host:port`` on the node of learner rank 0, for the rendezvous of the ranks."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        first = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=self.bundle_index("learner", 0))
        return ray.get(ray.remote(_free_address).options(num_cpus=0, scheduling_strategy=first).remote(), timeout=60)

    def bundle_index(self, role: str, index: int) -> int:
        """Index of a worker's bundle in the group."""
        return [place for place, bundle in enumerate(self.need) if bundle.role == role][index]

    def close(self) -> None:
        """Release the resources."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self._group)


def _free_address() -> str:
    """This node's address with a port that is free now."""
    import ray

    return f"{ray.util.get_node_ip_address()}:{free_port()}"
