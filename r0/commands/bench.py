"""``bench``: retrieve, rerank and eval on several data sets, and one table of all.

Each set has a folder of its own in ``sets/``, with what the three commands write. The same command goes on where an interrupted
one stopped: what a set has is not made again.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from r0.bench.set_files import SetFiles, find_files
from r0.bench.suite import BenchSet, open_suite
from r0.bench.table import Results, SetResult, as_json, markdown, text
from r0.commands import rerank, retrieve
from r0.commands.plan import plan_bench
from r0.config import BenchConfig, EvaluateConfig, RerankConfig, RetrieveConfig
from r0.config.distill_run import keys_in_common
from r0.errors import RunFailed, UserError, reason
from r0.evaluation.measures import MEASURES
from r0.process.signals import StopRequest
from r0.rerank.prompt_budget import check_model
from r0.rerank.session import Engines
from r0.runs import RunDirectory
from r0.runs.output_path import output_path
from r0.runs.prompt_date import with_date
from r0.storage.files import write_atomic, writing
from r0.storage.models import model_folder

logger = logging.getLogger(__name__)

SETS, FIRST_STAGE, RERANK, TABLE = "sets", "first_stage.trec", "rerank", "table"
DEPTH = 100  # documents of the first stage, if no more are reranked


def run(config: BenchConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Run the benchmark, or print the plan. Returns the exit code: 0 if done, 1 if a data set failed, 128 + signal if stopped
    (the same command resumes).

    Raises:
        UserError: the suite or the model cannot be used.
    """
    sets = open_suite(config.suite, config.data_root)
    if dry_run:
        print(plan_bench(config, sets, gpu_memory))
        return 0
    folder = model_folder(config.model)
    check_model(config, folder)
    output = output_path("bench", config)
    config = with_date("bench", config, folder)
    results = Results(config.model, config.method, len(sets))
    with RunDirectory.open(output, "bench", config, fresh=config.fresh) as directory:
        with StopRequest() as stop, stop.at_once(), Engines(config) as engines:  # rerank has a stop of its own
            for number, one in enumerate(sets, 1):
                print(f"— {one.name} ({number} of {len(sets)})", flush=True)
                if code := _attempt(config, one, directory.folder(SETS) / one.name, results, engines):
                    return code
        _write_table(directory.path, results)
        if not results.failed:
            directory.finish(0, {measure: after for measure, _, _, after in results.means()})
    return 1 if results.failed else 0


def _attempt(config: BenchConfig, one: BenchSet, folder: Path, results: Results, engines: Engines) -> int:
    """Measure a data set and add its result, or the reason why it failed. Returns the exit code of a signal, or 0."""
    try:
        found = _measure(config, one, folder, engines)
    except Exception as error:  # whatever is wrong with one set, the others go on
        if engines.broken:
            raise
        engines.close(gently=False)  # jobs of this set may be in progress
        said = str(error)
        if not isinstance(error, UserError | RunFailed):
            logger.exception("%s failed", one.name)
            said = f"{type(error).__name__}: {reason(error)}"
        results.failed[one.name] = said
        print(f"r0: {one.name}: {said}", file=sys.stderr, flush=True)
        return 0
    if isinstance(found, int):
        return found
    results.done.append(found)
    print(found.sentence(), flush=True)
    return 0


def _measure(config: BenchConfig, one: BenchSet, folder: Path, engines: Engines) -> SetResult | int:
    """Retrieve, rerank and evaluate in ``folder``. Returns the exit code of a signal instead of a result."""
    files = find_files(one)
    first = files.run or _retrieve(config, files, folder / FIRST_STAGE)
    keys = keys_in_common(config, RerankConfig) | {"data": str(files.folder), "run": str(first), "fresh": False}
    if code := rerank.run(RerankConfig(**keys | {"output": str(folder / RERANK)}), False, engines=engines):  # type: ignore[arg-type]
        return code
    return _evaluate(config, one, files, first, folder)


def _retrieve(config: BenchConfig, files: SetFiles, run: Path) -> Path:
    """BM25's run for the judged queries, if it is not there yet."""
    if not run.is_file():
        retrieve.run(
            RetrieveConfig(
                data=str(files.folder), qrels=str(files.qrels), excluded=tuple(map(str, files.excluded)), output=str(run),
                depth=max(DEPTH, config.depth), ignore_identical_ids=config.ignore_identical_ids, skip_bad=config.skip_bad,
            ),
            False,
        )  # fmt: skip
    return run


def _evaluate(config: BenchConfig, one: BenchSet, files: SetFiles, first: Path, folder: Path) -> SetResult:
    """Compare the reranked run with the first stage; all figures are written to the set's folder."""
    from r0.evaluation.report import evaluate
    from r0.evaluation.table import per_query, render

    report = evaluate(
        EvaluateConfig(
            qrels=(str(files.qrels),), excluded=tuple(map(str, files.excluded)), first_stage=str(first),
            runs=(str(folder / RERANK / rerank.RUN),), measures=(one.measure, *(measure.name for measure in MEASURES)),
            ignore_identical_ids=config.ignore_identical_ids, skip_bad=config.skip_bad,
        )
    )  # fmt: skip
    write_atomic(folder / "eval.json", render(report, "json").encode())
    write_atomic(folder / "per_query.jsonl", per_query(report).encode())
    return SetResult(one.name, "BM25" if files.run is None else first.name, report)


def _write_table(folder: Path, results: Results) -> None:
    """Write the table, and print it."""
    for ending, content in (("md", markdown(results)), ("json", as_json(results))):
        with writing(folder):
            write_atomic(folder / f"{TABLE}.{ending}", content.encode())
    print(f"\n{text(results)}{folder / TABLE}.md, {TABLE}.json")
