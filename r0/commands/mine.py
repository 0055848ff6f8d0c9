"""``mine``: hard negatives for finetune, as groups, pointwise rows and [query, positives, negatives]."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from r0.config import MineConfig
from r0.errors import UserError
from r0.runs import RunDirectory, RunState
from r0.runs.output_path import output_path
from r0.runs.prompt_date import with_date
from r0.storage.models import model_folder

if TYPE_CHECKING:
    from r0.mining.collection import Collection
    from r0.mining.ranked import Source

DATA, SCORES = "data", "queries.jsonl"


def run(config: MineConfig, dry_run: bool) -> int:
    """Mine, or print the plan. Returns the exit code: 0 if done, 128 + signal if a reranker was stopped.

    Raises:
        UserError: invalid input that can be detected before a model loads; an epoch without any negative.
    """
    if dry_run:
        print(_plan(config))
        return 0
    from r0.mining.collection import check_collection, open_collection
    from r0.mining.mine import mine
    from r0.mining.sources import open_source
    from r0.mining.statistics import table

    check_collection(config)
    output = output_path("mine", config)
    if config.reranker is not None:
        from r0.mining.rescored import check_reranker

        config = with_date("mine", config, model_folder(check_reranker(config).model))
    RunDirectory.look(output, "mine", config, fresh=config.fresh)
    collection = open_collection(config)
    source = open_source(config, collection)
    with RunDirectory.open(output, "mine", config, fresh=config.fresh) as directory:
        data = directory.path / DATA
        if directory.state == RunState.FINISHED:
            print(f"{data}: finished before (fresh=true starts over)")
            return 0
        print("\n".join(filter(None, [collection.inventory(), collection.bad.summary()])), flush=True)
        if config.reranker is None:
            figures = mine(config, collection, source.ranked(collection.queries, config.deepest), data)
        else:
            found, code = _with_reranker(config, collection, source, directory.path)
            if found is None:
                return code
            figures = found
        directory.finish(len(collection.queries), {"negatives": float(sum(one["negatives"] for one in figures))})
        print(table(figures))
        print(f"{data}: groups, rows and positives" + (f", numbered by {len(figures)} epochs" if len(figures) > 1 else ""))
    return 0


def _with_reranker(
    config: MineConfig, collection: Collection, source: Source, folder: Path
) -> tuple[list[dict[str, Any]] | None, int]:
    """The statistics of mining with a reranker's scores; or None and the exit code, if a signal stopped it."""
    from r0.mining.mine import mine
    from r0.mining.rescored import Rescored
    from r0.process.signals import StopRequest

    what = "stopping; the scores of finished queries are kept, and the same command goes on from them"
    with StopRequest(what) as stop, Rescored(config, collection, source, folder / SCORES) as rescored:
        if not rescored.score(stop):
            return None, stop.exit_code
        return mine(config, collection, rescored.ranked(), folder / DATA), 0


def _plan(config: MineConfig) -> str:
    """The text of a dry run."""
    missing = []
    try:
        output = f"output: {output_path('mine', config)}"
    except UserError as error:
        missing.append(str(error))
        output = "output: not set"
    named = {"data": config.data, "run": config.run}
    missing += [f"{name}: there is no {path}" for name, path in named.items() if path and not Path(path).expanduser().exists()]
    for name in ("model", "reranker"):
        try:
            _check_model(name, config, missing)
        except UserError as error:
            missing.append(f"{name}: {error}")
    ranker = f"{config.source}, then {config.reranker} for the first {config.depth}" if config.reranker else config.source
    parts = [yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip(), ""]
    parts += [f"documents are ranked by {ranker}; epochs: {len(config.ranks)}", output]
    parts += ["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    return "\n".join(parts)


def _check_model(name: str, config: MineConfig, missing: list[str]) -> None:
    """What is missing of the model that the key ``name`` gives.

    Raises:
        UserError: it cannot be used.
    """
    from r0.mining.dense import check_dense
    from r0.mining.rescored import check_reranker
    from r0.storage.model_checks import check_folder
    from r0.storage.models import local_folder

    model = getattr(config, name)
    if model is None:
        return
    folder = local_folder(model)
    if folder is None:
        missing.append(f"{name}: {model} is not on this machine; it would be downloaded from the Hugging Face Hub")
    elif name == "reranker":
        check_reranker(config)
    else:
        check_folder(folder)
        check_dense(folder)
