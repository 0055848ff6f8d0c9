"""``--dry-run``: the resolved configuration, what would be placed where, an estimate of memory, and what is missing."""

from __future__ import annotations

from pathlib import Path

import yaml

from r0.actors.placement import phases
from r0.config import AnnotateConfig, LearnerSection, RankingKeys, RerankConfig, RLConfig, ScoreConfig, Section, TrainingKeys
from r0.errors import UserError
from r0.process.gpus import local_gpus
from r0.runs.output_path import output_path
from r0.storage.models import local_folder, parameters


def plan(command: str, config: TrainingKeys) -> str:
    """The text of a dry run. Nothing is loaded, started or written."""
    missing: list[str] = []
    parts = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(), ""]
    gpus = local_gpus() > 0
    parts += _places(config, gpus)
    parts += _memory(config, gpus, missing)
    parts.append(_output(command, config, missing))
    data = getattr(config, "data", "builtin")
    if data != "builtin" and not Path(data.replace("{}", "1")).exists():
        missing.append(f"data: there is no {data}")
    parts += ["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    return "\n".join(parts)


def plan_rerank(config: RerankConfig) -> str:
    """The text of a dry run of ``rerank``. Nothing is loaded, started or written."""
    return plan_engines("rerank", config, config)


def plan_engines(command: str, config: RerankConfig | AnnotateConfig, keys: RankingKeys) -> str:
    """The text of a dry run of a command whose workers are those of ``keys``. Nothing is loaded, started or written."""
    missing: list[str] = []
    parts = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(), ""]
    gpus = local_gpus() > 0
    parts += _places(keys, gpus)
    parts += _memory(keys, gpus, missing)
    parts += _vectors(keys, missing)
    parts.append(_output(command, config, missing))
    named = (("data", config.data if config.data != "builtin" else None), ("run", config.run))
    missing += [f"{name}: there is no {path}" for name, path in named if path is not None and not Path(path).exists()]
    if config.run is None and Path(config.data).is_dir():
        missing.append(f"run: the BEIR folder {config.data} needs a TREC run with the candidates of each query")
    parts += ["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    return "\n".join(parts)


def plan_score(config: ScoreConfig) -> str:
    """The text of a dry run of ``distill score``. Nothing is loaded, started or written."""
    missing: list[str] = []
    parts = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(), ""]
    gpus, ranking = local_gpus() > 0, config.ranking()
    parts += _places(ranking, gpus)
    parts += _memory(ranking, gpus, missing)
    parts.append(_output("distill score", config, missing))
    if config.data != "builtin" and not Path(config.data).expanduser().exists():
        missing.append(f"data: there is no {config.data}")
    parts += ["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    return "\n".join(parts)


def _places(config: TrainingKeys | RankingKeys, gpus: bool) -> list[str]:
    if config.ray.inline:
        return ["placed: everything in this process (ray.inline=true)"]
    where = config.ray.address or "a Ray started on this machine, unless RAY_ADDRESS names one"
    lines = [f"placed on {where}, if its GPUs are like this machine's:"]
    counts: dict[tuple[str, float, float], int] = {}
    needs = phases(config, gpus)
    for bundle in (bundle for need in needs for bundle in need):
        place = (bundle.role, bundle.cpus, bundle.gpus)
        counts[place] = counts.get(place, 0) + 1
    lines += [f"  {count} × {role}: {cpus:g} CPU, {gpu:g} GPU each" for (role, cpus, gpu), count in counts.items()]
    return [*lines, "  one kind after the other"] if len(needs) > 1 else lines


def _memory(config: TrainingKeys | RankingKeys, gpus: bool, missing: list[str]) -> list[str]:
    """Weights, gradients and optimizer of a learner rank, and the weights of a rollout worker, in GiB."""
    try:
        folder = local_folder(config.model)
    except UserError as error:
        missing.append(str(error))
        return []
    if folder is None:
        missing.append(f"model: {config.model} is not on this machine; it would be downloaded from the Hugging Face Hub")
        return ["memory: not known before the model is here"]
    count = parameters(folder)
    if isinstance(config, RankingKeys):
        engine = count * (2 if _half(config.rollout.dtype, gpus) else 4)
        return [f"memory of {count / 1e6:.1f} M weights: {_scorer(config, folder, missing)} {engine / 2**30:.2f} GiB"]
    if not isinstance(config, RLConfig):
        return [f"model: {count / 1e6:.1f} M weights"]
    rank = learner_bytes(count, config.learner, gpus) * (2 if config.algo == "ppo" else 1)
    reference = count * (2 if _half(config.learner.dtype, gpus) else 4) if config.kl_coef and not config.learner.lora.r else 0
    engine = count * (2 if _half(config.rollout.dtype, gpus) else 4)
    return [
        f"memory of {count / 1e6:.1f} M weights, without activations:",
        f"  learner rank {(rank + reference) / 2**30:.2f} GiB, rollout worker {engine / 2**30:.2f} GiB + key-value cache",
    ]


def _scorer(config: RankingKeys, folder: Path, missing: list[str]) -> str:
    """What a worker of ``rerank`` is."""
    from r0.rerank.cross_encoder import is_cross_encoder
    from r0.rerank.late_interaction import is_late_interaction

    try:
        if is_late_interaction(folder, config):
            return "multi-vector encoder"
        return "cross-encoder" if is_cross_encoder(folder, config) else "rollout worker, beside its key-value cache,"
    except UserError as error:
        missing.append(str(error))
        return "worker"


def _vectors(config: RankingKeys, missing: list[str]) -> list[str]:
    """Where late interaction keeps the vectors of documents."""
    from r0.rerank.late_interaction import METHOD
    from r0.rerank.vector_cache import cache_folder

    if config.method != METHOD:
        return []
    try:
        return [f"document vectors: {cache_folder(config.vector_cache) or 'not kept'}"]
    except UserError as error:
        if str(error) not in missing:
            missing.append(str(error))
        return []


def learner_bytes(count: int, learner: LearnerSection, gpus: bool) -> float:
    """Bytes of weights, gradients and AdamW state of one rank for ``count`` weights; each ZeRO stage shares more of it."""
    half = _half(learner.dtype, gpus)
    weights = gradients = 2 * count if half else 4 * count
    optimizer = (12 if half else 8) * count  # two moments, and fp32 master weights beside bf16 ones
    share = 1 / learner.ranks
    return (
        weights * (share if learner.zero_stage >= 3 else 1)
        + gradients * (share if learner.zero_stage >= 2 else 1)
        + optimizer * (share if learner.zero_stage >= 1 else 1)
    )


def _half(dtype: str, gpus: bool) -> bool:
    return dtype == "bf16" or (dtype == "auto" and gpus)


def _output(command: str, config: Section, missing: list[str]) -> str:
    try:
        return f"output: {output_path(command, config)}"
    except UserError as error:
        missing.append(str(error))
        return "output: not set"
