"""The rerank role: a worker with one engine."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from r0.actors.rollout.engines import make_engine
from r0.actors.rollout.settings import EngineSettings, stop_ids
from r0.config import RankingKeys
from r0.rerank.job import Job, Outcome
from r0.rerank.judge import Judge
from r0.rerank.scheduler import Scheduler
from r0.text.prompt_file import load_system_prompt, template_variables
from r0.text.tokenizer import open_tokenizer

QUEUED = 2  # × max_num_seqs requests are in flight, so that the engine never runs empty


class RerankWorker:
    """One engine that works on many queries.

    Args:
        keys: the configuration.
        settings: engine settings.
        max_prompt_tokens: maximum length of a whole prompt.

    Raises:
        UserError: the engine is not installed, or model or tokenizer cannot be used.
    """

    def __init__(self, keys: RankingKeys, settings: EngineSettings, max_prompt_tokens: int):
        folder = Path(settings.model)
        tokenizer = open_tokenizer(folder)
        variables = template_variables(folder, keys.chat_template_kwargs)
        judge = Judge(tokenizer, keys, max_prompt_tokens, stop_ids(folder), partial(load_system_prompt, folder), variables)
        self._engine = make_engine(settings)
        self._scheduler = Scheduler(self._engine, judge, keys, QUEUED * self._engine.max_num_seqs)

    def work(self, jobs: Sequence[Job], seconds: float, cancelled: Collection[int] = ()) -> list[Outcome]:
        """Drop the jobs with the keys ``cancelled``, accept ``jobs`` and work for ``seconds``, or until more jobs are needed;
        return the finished jobs.

        Raises:
            UserError: the tokenizer cannot be used.
        """
        for job in jobs:
            self._scheduler.add(job)
        if cancelled:
            self._scheduler.cancel(cancelled)
        end = time.monotonic() + seconds
        done: list[Outcome] = []
        while not self._scheduler.idle and time.monotonic() < end and not (done and self._scheduler.wants_jobs):
            done += self._scheduler.step()
        return done

    def pid(self) -> int:
        """The id of this worker's process."""
        return os.getpid()

    def close(self) -> None:
        """Release the engine."""
        self._engine.close()
