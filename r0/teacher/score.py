"""A teacher's raw logit for each query and document of labelled data, for distillation.

``r0.rerank`` determines the kind of teacher: a yes/no decoder with its own or r0's format, with or without a thought
(logit(yes) − logit(no)), or a cross-encoder (its score before any activation). Each query is one job of the rerank workers,
many in flight on each. Finished queries are stored in ``queries.jsonl``; at the end ``scores.jsonl`` is written in the order
of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from r0.config import ScoreConfig
from r0.data.jsonl import readable_file
from r0.data.labelled import BUILTIN, Labelled
from r0.data.scored import ScoredList, scored_row
from r0.errors import UserError
from r0.process.signals import StopRequest
from r0.rerank.job import Job, Outcome
from r0.rerank.prompt_budget import check_model
from r0.rerank.reranker import Reranker
from r0.rerank.session import Work, finish
from r0.runs import RunDirectory, RunState
from r0.runs.output_path import output_path
from r0.runs.prompt_date import with_date
from r0.storage.files import json_line, write_atomic, write_json
from r0.storage.models import model_folder
from r0.teacher.labelled_lists import LabelledLists, key_of
from r0.teacher.score_figures import Figures
from r0.teacher.score_store import ScoreStore

COMMAND = "distill score"
QUERIES, SCORES, SUMMARY = "queries.jsonl", "scores.jsonl", "summary.json"


def score(config: ScoreConfig) -> int:
    """Score the remaining queries, and print the teacher's statistics. Returns 0, or 128 + signal if stopped.

    Raises:
        UserError: invalid input, found before a model loads; or a query too long for the teacher.
    """
    if config.data != BUILTIN:
        readable_file(Path(config.data), "a JSONL file of labelled lists")
    folder, output = model_folder(config.model), output_path(COMMAND, config)
    config = with_date(COMMAND, config, folder)
    check_model(config.ranking(), folder)
    RunDirectory.look(output, COMMAND, config, fresh=config.fresh)
    lists = LabelledLists(config.data, config.builtin_rows, config.seed, config.skip_bad)
    what = "stopping; scored queries are stored, and the same command resumes from them"
    with RunDirectory.open(output, COMMAND, config, fresh=config.fresh) as directory, StopRequest(what) as stop:
        if directory.state == RunState.FINISHED:
            print(f"{directory.path / SCORES}: already finished (fresh=true starts over)")
            return 0
        print(lists.summary())
        with ScoreStore(directory.path / QUERIES, lists.keys) as store:
            keys = config.ranking(-(-lists.documents // len(lists.keys)))
            session = finish(keys, _work(config, lists, store), store, len(lists.keys), stop)
            if session is None:
                return stop.exit_code
            figures = Figures()
            write_atomic(directory.path / SCORES, _lines(lists, store, figures))
            write_json(directory.path / SUMMARY, figures.values(session))
            directory.finish(len(store), {"unscored_share": figures.unscored / figures.pairs})
            print(figures.report(session))
            print(directory.path / SCORES)
    return 0


def _work(config: ScoreConfig, lists: LabelledLists, store: ScoreStore) -> Work[tuple[int, Labelled]]:
    """The lists that are not in the store yet, with their hashes."""

    def left() -> Iterator[tuple[int, Labelled]]:
        begun = set()
        for one in lists:
            if (key := key_of(one)) not in store and key not in begun:
                begun.add(key)
                yield key, one

    def job(teacher: Reranker, item: tuple[int, Labelled]) -> Job:
        key, one = item
        return teacher.job(f"{key:016x}", one.query, one.documents, each=True)

    def keep(item: tuple[int, Labelled], outcome: Outcome) -> None:
        key, one = item
        if outcome.refused and not config.skip_bad:
            raise UserError(f"{one.place}: {outcome.refused}; with skip_bad=true such queries have no scores")
        store.add(key, len(one.documents), outcome)

    return Work(left(), len(lists.keys) - len(store), job, keep, "queries", "scored", "scoring")


def _lines(lists: LabelledLists, store: ScoreStore, figures: Figures) -> Iterator[bytes]:
    """The lines of ``scores.jsonl``; also collects their statistics.

    Raises:
        UserError: the data changed during the run.
    """
    for one in lists:
        if (key := key_of(one)) not in store:
            raise UserError(f"{one.place}: the data changed during the run; start over with fresh=true, and do not modify it")
        row = store.row(key)
        scored = ScoredList(one.query, one.documents, one.labels, tuple(row["scores"]), one.place)
        figures.add(scored, row)
        yield json_line(scored_row(scored))
