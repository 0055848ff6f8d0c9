"""``--dry-run``: the resolved configuration, the placement of workers, an estimate of memory, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from r0.actors.placement import available_cores, bundles, phases
from r0.bench.set_files import find_files
from r0.bench.suite import BenchSet
from r0.commands.memory import memory_lines
from r0.commands.start_model import check_model
from r0.config import (
    AnnotateConfig,
    BenchConfig,
    RankingKeys,
    RerankConfig,
    RLConfig,
    ScoreConfig,
    Section,
    ServeConfig,
    TrainingKeys,
)
from r0.config.cards import shares_card
from r0.errors import UserError
from r0.process.gpus import local_gpus
from r0.runs.output_path import output_path
from r0.runs.recorded import RecordedRollouts
from r0.storage.model_checks import check_folder
from r0.storage.models import local_folder
from r0.text.tokenizer import open_tokenizer


def plan(command: str, config: TrainingKeys, gpu_memory: float | None = None) -> str:
    """The text of a dry run, on the cards found here or on cards of ``gpu_memory`` GB. Nothing is loaded, started or written."""
    missing: list[str] = []
    parts = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(), ""]
    gpus = gpu_memory is not None or local_gpus() > 0
    parts += _places(config, gpus)
    parts += _sampling_ahead(config, gpus)
    parts += _memory(config, missing, gpu_memory)
    parts.append(_output(command, config, missing))
    _rollouts(command, config, missing)
    data = getattr(config, "data", "builtin")
    if data != "builtin" and not Path(data.replace("{}", "1")).exists():
        missing.append(f"data: there is no {data}")
    parts += ["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    return "\n".join(parts)


def plan_rerank(config: RerankConfig, gpu_memory: float | None = None) -> str:
    """The text of a dry run of ``rerank``. Nothing is loaded, started or written."""
    return plan_engines("rerank", config, config, gpu_memory)


def plan_engines(command: str, config: RerankConfig | AnnotateConfig, keys: RankingKeys, gpu_memory: float | None = None) -> str:
    """The text of a dry run of a command with workers as in ``keys``. Nothing is loaded, started or written."""
    missing: list[str] = []
    parts = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(), ""]
    parts += _rankers(keys, missing, gpu_memory)
    parts.append(_output(command, config, missing))
    named = (("data", config.data if config.data != "builtin" else None), ("run", config.run))
    missing += [f"{name}: there is no {path}" for name, path in named if path is not None and not Path(path).exists()]
    if config.run is None and Path(config.data).is_dir():
        missing.append(f"run: the BEIR folder {config.data} needs a TREC run with the candidates of each query")
    parts += ["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    return "\n".join(parts)


def plan_serve(config: ServeConfig, gpu_memory: float | None = None) -> str:
    """The text of a dry run of ``serve``. Nothing is loaded, started or written; a token is not shown."""
    missing: list[str] = []
    shown = config.model_dump(mode="json") | ({"api_key": "(set)"} if config.api_key else {})
    parts = [yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip(), ""]
    parts += _rankers(config.ranking(), missing, gpu_memory)
    parts.append(f"address: http://{config.host}:{config.port}")
    parts += ["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    return "\n".join(parts)


def plan_bench(config: BenchConfig, sets: Sequence[BenchSet], gpu_memory: float | None = None) -> str:
    """The text of a dry run of ``bench``. Nothing is loaded, started or written."""
    missing: list[str] = []
    parts = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(), ""]
    parts += _rankers(config, missing, gpu_memory)
    parts.append(_output("bench", config, missing))
    parts.append("data sets:")
    for one in sets:
        try:
            files = find_files(one)
            parts.append(f"  {one.name}: {files.folder}, first stage {files.run or 'BM25'}, {one.measure} by {files.qrels}")
        except UserError as error:
            missing.append(f"{one.name}: {error}")
    parts += ["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    return "\n".join(parts)


def plan_score(config: ScoreConfig, gpu_memory: float | None = None) -> str:
    """The text of a dry run of ``distill score``. Nothing is loaded, started or written."""
    missing: list[str] = []
    parts = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(), ""]
    gpus, ranking = gpu_memory is not None or local_gpus() > 0, config.ranking()
    parts += _places(ranking, gpus)
    parts += _memory(ranking, missing, gpu_memory)
    parts.append(_output("distill score", config, missing))
    if config.data != "builtin" and not Path(config.data).expanduser().exists():
        missing.append(f"data: there is no {config.data}")
    parts += ["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    return "\n".join(parts)


def _rankers(keys: RankingKeys, missing: list[str], gpu_memory: float | None) -> list[str]:
    """Where the workers of a reranker would run, and what they need."""
    gpus = gpu_memory is not None or local_gpus() > 0
    return [*_places(keys, gpus), *_memory(keys, missing, gpu_memory), *_vectors(keys, missing)]


def _places(config: TrainingKeys | RankingKeys, gpus: bool) -> list[str]:
    if config.ray.inline:
        return ["placed: everything in this process (ray.inline=true)"]
    where = config.ray.address or "a Ray started on this machine, or one that is there and fits"
    lines = [f"placed on {where}, if its GPUs are like this machine's:"]
    counts: dict[tuple[str, float, float], int] = {}
    needs = phases(config, gpus)
    for bundle in (bundle for need in needs for bundle in need):
        place = (bundle.role, bundle.cpus, bundle.gpus)
        counts[place] = counts.get(place, 0) + 1
    lines += [f"  {count} × {role}: {cpus:g} CPU, {gpu:g} GPU each" for (role, cpus, gpu), count in counts.items()]
    return [*lines, "  one kind after the other"] if len(needs) > 1 else lines


def _sampling_ahead(config: TrainingKeys, gpus: bool) -> list[str]:
    """Whether ``sync.max_staleness=1`` is possible and worth it on this layout."""
    if not isinstance(config, RLConfig) or not (config.samples and config.learns):
        return []
    key = "sync.max_staleness=1"
    if config.ray.inline:
        return [f"{key}: not possible, because learner and engine are in one process"]
    if shares_card(config, gpus=True):
        return [f"{key}: not possible, because learner and engine share a card and take turns on it"]
    needs = [bundle for bundle in bundles(config, gpus) if bundle.role != "reward"]
    on_cards = [bundle.gpus > 0 for bundle in needs]
    wanted, cores = sum(bundle.cpus for bundle in needs), available_cores()
    if not any(on_cards) and wanted > cores and config.ray.address in (None, "local"):
        return [f"{key}: possible, but 0 is better: learner and engines want {wanted:g} cores, and this machine has {cores}"]
    kind = "cards" if all(on_cards) else "devices" if any(on_cards) else "cores"
    return [
        f"{key}: possible, since learner and engines have {kind} of their own; a step takes as long as sampling or learning, not "
        "both; rollouts are one weight version old, and a stop may wait for them"
    ]


def _memory(config: TrainingKeys | RankingKeys, missing: list[str], gpu_memory: float | None) -> list[str]:
    """The memory of the roles; adds a missing model to ``missing``."""
    try:
        folder = local_folder(config.model)
        if folder is None:
            missing.append(f"model: {config.model} is not on this machine; it would be downloaded from the Hugging Face Hub")
        else:
            check_folder(folder)
            check_model(config, folder)
        lines = memory_lines(config, gpu_memory)
    except UserError as error:
        missing.append(str(error))
        return []
    if isinstance(config, RankingKeys) and folder is not None:
        lines.insert(0, f"worker: {_scorer(config, folder, missing)}")
    return lines


def _scorer(config: RankingKeys, folder: Path, missing: list[str]) -> str:
    """The kind of a worker of ``rerank``."""
    from r0.rerank.cross_encoder import is_cross_encoder
    from r0.rerank.late_interaction import is_late_interaction

    try:
        if is_late_interaction(folder, config):
            return "multi-vector encoder"
        return "cross-encoder" if is_cross_encoder(folder, config) else "language model"
    except UserError as error:
        missing.append(str(error))
        return "worker"


def _vectors(config: RankingKeys, missing: list[str]) -> list[str]:
    """The folder where late interaction stores document vectors."""
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


def _rollouts(command: str, config: TrainingKeys, missing: list[str]) -> None:
    """Add what is wrong with the rollouts that the run would learn from."""
    if not isinstance(config, RLConfig) or config.rollouts is None or (folder := local_folder(config.model)) is None:
        return
    try:
        RecordedRollouts.open(config, output_path(command, config), open_tokenizer(folder, pads=True).decode)
    except UserError as error:
        missing.append(str(error))


def _output(command: str, config: Section, missing: list[str]) -> str:
    try:
        return f"output: {output_path(command, config)}"
    except UserError as error:
        missing.append(str(error))
        return "output: not set"
