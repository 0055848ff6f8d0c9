"""A teacher's raw logit for every query and document of labelled data: what a student is distilled from.

Who the teacher is, ``r0.rerank`` knows: a yes/no decoder in a format of its own or r0's, after a thought or without one
(logit(yes) − logit(no)), or a cross-encoder (its score before any activation). Each query is one job of the rerank workers, many
in flight on each. What is done is kept in ``queries.jsonl``; at the end ``scores.jsonl`` is written in the order of the data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from r0.config import ScoreConfig
from r0.data.labelled import Labelled
from r0.data.scored import ScoredList, scored_row
from r0.errors import UserError
from r0.process.signals import StopRequest
from r0.rerank.cross_encoder import is_cross_encoder
from r0.rerank.job import Job
from r0.rerank.reranker import Reranker, prompt_budget
from r0.runs import RunDirectory, RunState
from r0.runs.live import progress
from r0.runs.output_path import output_path
from r0.storage.files import write_atomic
from r0.storage.models import model_folder
from r0.teacher.labelled_lists import LabelledLists, key_of
from r0.teacher.score_figures import Figures, Session
from r0.teacher.score_store import ScoreStore

COMMAND = "distill score"
QUERIES, SCORES, SUMMARY = "queries.jsonl", "scores.jsonl", "summary.json"


def score(config: ScoreConfig) -> int:
    """Score what is not scored yet, and show the teacher's figures. Returns 0, or 128 + signal when stopped.

    Raises:
        UserError: anything about the input that can be known before a model loads; a query too long for the teacher.
    """
    folder = model_folder(config.model)
    if not is_cross_encoder(folder, config.ranking()):
        prompt_budget(config.ranking(), folder)
    output = output_path(COMMAND, config)
    lists = LabelledLists(config.data, config.builtin_rows, config.seed, config.skip_bad)
    what = "stopping; scored queries are kept, and the same command goes on from them"
    with RunDirectory.open(output, COMMAND, config, fresh=config.fresh) as directory, StopRequest(what) as stop:
        if directory.state == RunState.FINISHED:
            print(f"{directory.path / SCORES}: finished before (fresh=true starts over)")
            return 0
        print(lists.summary())
        with ScoreStore(directory.path / QUERIES, lists.keys) as store:
            if len(store):
                print(f"{len(store)} queries were scored before")
            session = _ask(config, lists, store, stop)
            if stop() and len(store) < len(lists.keys):
                print(f"stopped after {len(store)} of {len(lists.keys)} queries; the same command goes on with the others")
                return stop.exit_code
            figures = Figures()
            write_atomic(directory.path / SCORES, _lines(lists, store, figures))
            summary = figures.values(session)
            write_atomic(directory.path / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
            directory.finish(len(store), {"unscored_share": figures.unscored / figures.pairs})
            print(figures.report(session))
            print(directory.path / SCORES)
    return 0


def _ask(config: ScoreConfig, lists: LabelledLists, store: ScoreStore, stop: StopRequest) -> Session:
    """Ask the teacher about the lists that are not in the store yet."""
    session, left = Session(), len(lists.keys) - len(store)
    if not left:
        return session
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    with Reranker.of(config.ranking(-(-lists.documents // len(lists.keys)))) as teacher:
        stop.install()  # Ray has handlers of its own
        asked: dict[int, tuple[int, Labelled]] = {}  # by the key of the job

        def jobs() -> Iterator[Job]:
            begun = set()
            for one in lists:
                if (key := key_of(one)) not in store and key not in begun:
                    begun.add(key)
                    job = teacher.job(f"{key:016x}", one.query, one.documents, each=True)
                    asked[job.key] = key, one
                    yield job

        began = time.monotonic()
        for outcome in progress(teacher.run(jobs(), stop), "scoring", left):
            key, one = asked.pop(outcome.key)
            if outcome.refused and not config.skip_bad:
                raise UserError(f"{one.place}: {outcome.refused}; with skip_bad=true such queries have no scores")
            store.add(key, len(one.documents), outcome)
            session.queries += 1
            session.pairs += len(one.documents)
            session.tokens += outcome.prompt_tokens + outcome.new_tokens
        session.seconds = time.monotonic() - began
    return session


def _lines(lists: LabelledLists, store: ScoreStore, figures: Figures) -> Iterator[bytes]:
    """The lines of ``scores.jsonl``; their figures are taken on the way.

    Raises:
        UserError: the data changed during the run.
    """
    for one in lists:
        if (key := key_of(one)) not in store:
            raise UserError(f"{one.place}: the data changed during the run; start over with fresh=true, and leave it as it is")
        row = store[key]
        scored = ScoredList(one.query, one.documents, one.labels, tuple(row["scores"]), one.place)
        figures.add(scored, row)
        yield (json.dumps(scored_row(scored), ensure_ascii=False) + "\n").encode()
