"""Stage C from a configuration to a finished run: measure, sample what is kept, learn, measure again.

The engines are up twice, with the starting and with the final model; the ranks learn in between. What is done is on the disk, so
that the same command goes on after an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers.utils import logging as transformers_logging

from r0.actors.placement import check_nodes, start_ray
from r0.config import StageCConfig
from r0.data.source import TaskSource
from r0.evaluation.significance import p_value
from r0.process.signals import StopRequest
from r0.records import ListwiseTask
from r0.runs import Recorder, RunDirectory
from r0.runs.live import progress
from r0.storage.model_checks import check_writes
from r0.storage.models import model_folder
from r0.supervised.stage_c.asker import Asker
from r0.supervised.stage_c.completions import CompletionFile, rows_of, sample_completions
from r0.supervised.stage_c.engines import engines
from r0.supervised.stage_c.examples import THOUGHTS
from r0.supervised.stage_c.lists import stage_c_source
from r0.supervised.stage_c.measure import Measured, measure
from r0.supervised.training import driver
from r0.supervised.training import run as training
from r0.supervised.training.job import Job

RANK = "r0.supervised.stage_c.rank:train_rank"
BEFORE, AFTER = "before.json", "after.json"
CHANGE_P = "heldout/ndcg@10_change_p"


def run(config: StageCConfig) -> Path:
    """Train, or resume; returns the run directory. Its ``model/`` is an ordinary Hugging Face folder; after LoRA the adapter
    alone lies beside it, in ``adapter/``.

    Raises:
        UserError: bad input, whether the driver or a rank found it.
        driver.Stopped: a signal asked the run to stop.
    """
    transformers_logging.disable_progress_bar()
    training.check_ranks(config)
    folder = model_folder(config.model)
    check_writes(folder)
    source, asker = stage_c_source(config), Asker(config, folder)  # before anything is written
    summary = "\n".join(filter(None, [source.summary(), asker.prompter.template_note]))
    data = training.Data(source.steps_per_epoch(config.batch_size), source.facts(), summary)

    def learn(job: Job, directory: RunDirectory, recorder: Recorder, stop: StopRequest) -> training.Learned:
        if not config.ray.inline:
            start_ray(config)
            stop.install()  # Ray has handlers of its own
            check_nodes(folder, directory.path)
        heldout = [task for task in source.heldout(config.eval_lists) if isinstance(task, ListwiseTask)]
        before = _prepare(job, source, asker, heldout, directory, stop)
        figures = driver.train(job, directory, recorder, stop, before.values)
        after = _measured(config, directory.path / "model", asker, heldout, directory.path / AFTER)
        values = {**after.values, **_change(before, after)}
        if values:
            recorder.evaluation(job.steps, values)
        return training.Learned(before.values, values, figures)

    return training.run("stage_c", config, folder, RANK, lambda _: data, learn)


def _prepare(
    job: Job[StageCConfig],
    source: TaskSource,
    asker: Asker,
    heldout: Sequence[ListwiseTask],
    directory: RunDirectory,
    stop: StopRequest,
) -> Measured:
    """What is done with the starting model: the held-out lists are measured, and the completions to keep are sampled."""
    config, path = job.config, directory.path / BEFORE
    before = Measured.read(path) if heldout else Measured()
    wanted = rows_of(config, source, job.steps) if config.samples else []
    with CompletionFile(directory.path / THOUGHTS) as file:
        left = [row for row in wanted if row not in file]
        if before is not None and not left:
            return before
        with engines(config, Path(job.model)) as group:
            if before is None:
                before = measure(config, heldout, asker, group)
                before.write(path)
            if left:
                kept = sample_completions(config, source, left, asker, group, file, stop)
                for _ in progress(kept, "sampling completions to keep", len(left)):
                    pass
        if stop() and any(row not in file for row in wanted):
            raise driver.Stopped(stop.exit_code)
    return before


def _measured(config: StageCConfig, model: Path, asker: Asker, heldout: Sequence[ListwiseTask], path: Path) -> Measured:
    """What is measured of the final model."""
    if not heldout:
        return Measured()
    with engines(config, model) as group:
        after = measure(config, heldout, asker, group)
    after.write(path)
    return after


def _change(before: Measured, after: Measured) -> dict[str, float]:
    """p of a two-sided paired t-test of nDCG@10, list by list."""
    p = p_value(np.array(after.ndcg), np.array(before.ndcg), "t") if len(before.ndcg) > 1 else None
    return {} if p is None else {CHANGE_P: p}
