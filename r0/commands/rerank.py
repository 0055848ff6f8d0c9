"""``rerank``: a model orders the candidates of a first stage; writes a TREC run, and statistics of every query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r0.commands.plan import plan_rerank
from r0.config import RerankConfig
from r0.data.candidates import CandidateLists, check_candidates, open_candidates
from r0.data.runfile import check_id, check_tag, write_run
from r0.errors import UserError
from r0.evaluation.identical_ids import said
from r0.process.signals import StopRequest
from r0.rerank.identical_candidates import without_identical
from r0.rerank.job import Job, Outcome
from r0.rerank.prompt_budget import check_model
from r0.rerank.reranker import Reranker
from r0.rerank.session import Engines, Session, Work, finish
from r0.rerank.store import Store, Totals
from r0.runs import RunDirectory, RunState
from r0.runs.live import duration
from r0.runs.output_path import look_at, output_path
from r0.runs.prompt_date import with_date
from r0.storage.files import write_json
from r0.storage.models import model_folder

RUN, QUERIES, SUMMARY = "run.trec", "queries.jsonl", "summary.json"
LISTED = 10  # refused queries that are listed


def run(config: RerankConfig, dry_run: bool, gpu_memory: float | None = None, engines: Engines | None = None) -> int:
    """Rerank, or print the plan. Returns the exit code: 0 if done, 128 + signal if stopped (the same command resumes).

    ``engines``: those of the configuration that other runs use too; None: own ones.

    Raises:
        UserError: invalid input that can be detected before a model loads.
    """
    if dry_run:
        print(plan_rerank(config, gpu_memory))
        return 0
    check_tag(config.tag)
    check_candidates(Path(config.data), Path(config.run) if config.run else None)
    folder = model_folder(config.model)
    check_model(config, folder)
    output = output_path("rerank", config)
    config = with_date("rerank", config, folder)
    RunDirectory.look(output, "rerank", config, fresh=config.fresh)
    lists = open_candidates(Path(config.data), Path(config.run) if config.run else None, config.skip_bad)
    lists, identical = without_identical(config, lists)
    inventory = "\n".join(filter(None, [_inventory(lists), said(identical)]))
    what = "stopping; finished queries are kept, and the same command goes on from them"
    with RunDirectory.open(output, "rerank", config, fresh=config.fresh) as directory, StopRequest(what) as stop:
        if directory.state == RunState.FINISHED:
            print(f"{directory.path / RUN}: finished before (fresh=true starts over)")
            return 0
        print("\n".join(filter(None, [inventory, lists.bad.summary()])))
        with Store(directory.path / QUERIES, lists) as store:
            session = finish(config, _work(config, lists, store), store, len(lists), stop, engines)
            if session is None:
                return stop.exit_code
            write_run(directory.path / RUN, store.rankings(), config.tag)
            summary = _summary(store.totals, session)
            write_json(directory.path / SUMMARY, summary)
            directory.finish(len(store), {"failed_share": summary["failed_share"]})
            print(report(store.totals, session))
            print(f"{directory.path / RUN}\n{look_at(directory.path)}")
    return 0


def _work(config: RerankConfig, lists: CandidateLists, store: Store) -> Work[int]:
    """The work for the queries that are not in the store yet."""
    left = [index for index in range(len(lists)) if index not in store]

    def job(reranker: Reranker, index: int) -> Job:
        depth = min(config.depth, len(lists.document_ids(index)))
        texts = [lists.document(index, place) for place in range(depth)]
        return reranker.job(lists.query_id(index), lists.query(index), texts, lists.scores(index))

    def keep(index: int, outcome: Outcome) -> None:
        if outcome.refused and not config.skip_bad:
            raise UserError(f"{outcome.refused}; with skip_bad=true such queries keep the given order")
        store.add(index, outcome)

    return Work(left, len(left), job, keep, "queries", "finished", "reranking")


def _inventory(lists: CandidateLists) -> str:
    """A summary of the queries and candidates.

    Raises:
        UserError: an id cannot be written into a run.
    """
    count = 0
    for index in range(len(lists)):
        ids = lists.document_ids(index)
        count += len(ids)
        for name in (lists.query_id(index), *ids):
            try:
                check_id(name)
            except UserError as error:
                raise UserError(f"{lists.name}: {error}") from None
    return f"{lists.name}: {len(lists)} queries, {count} candidates"


def report(totals: Totals, session: Session) -> str:
    """A summary of the answers, tokens, time and failures."""
    queries, asks = max(1, totals.queries), max(1, totals.asks)
    lines = [
        f"{totals.queries} queries, {totals.candidates} candidates, {totals.asks} answers",
        f"tokens a query: {totals.prompt_tokens / queries:,.0f} read, {totals.new_tokens / queries:,.0f} written",
    ]
    if session.jobs:
        each = session.seconds / session.jobs
        lines.append(f"seconds a query: {each:.2f} ({session.jobs} in {duration(session.seconds)}, many at one time)")
    lines.append(f"answers that could not be read as they should: {totals.failed} of {totals.asks} ({totals.failed / asks:.1%})")
    width = max(map(len, totals.failures), default=0)
    for name, count in sorted(totals.failures.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"  {name:<{width}}  {count:>7}  {count / asks:>6.1%}")
    if totals.refused:
        lines.append(f"queries that could not be shown to the model and keep the given order: {len(totals.refused)}")
        lines += [f"  {sentence}" for sentence in totals.refused[:LISTED]]
    return "\n".join(lines)


def _summary(totals: Totals, session: Session) -> dict[str, Any]:
    queries, asks = max(1, totals.queries), max(1, totals.asks)
    return {
        "queries": totals.queries,
        "candidates": totals.candidates,
        "asks": totals.asks,
        "refused": len(totals.refused),
        "failed_share": totals.failed / asks,
        "failures": {name: count / asks for name, count in sorted(totals.failures.items())},
        "prompt_tokens_a_query": totals.prompt_tokens / queries,
        "new_tokens_a_query": totals.new_tokens / queries,
        "seconds_in_work_a_query": totals.seconds / queries,
        "wall_seconds_a_query": session.seconds / session.jobs if session.jobs else None,
    }
