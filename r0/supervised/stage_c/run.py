"""Stage C from a configuration to a finished run: evaluate, sample completions, train, evaluate again.

The engines run twice, with the starting and with the final model; the ranks train in between. Every finished part is on disk, so
the same command resumes an interrupted run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers.utils import logging as transformers_logging

from r0.actors.cluster import start_ray
from r0.actors.learner.start_model import check_start_model
from r0.actors.placement import check_nodes
from r0.config import StageCConfig
from r0.data.formats import check_source
from r0.data.source import TaskSource
from r0.evaluation.significance import p_value
from r0.process.signals import StopRequest
from r0.records import ListwiseTask
from r0.runs import Recorder, RunDirectory
from r0.runs.calibration import FOLDER, write_calibration
from r0.runs.live import progress
from r0.runs.prompt_date import with_date
from r0.storage.models import model_folder
from r0.supervised.stage_c.completions import CompletionFile, rows_of, sample_completions
from r0.supervised.stage_c.engines import engines
from r0.supervised.stage_c.examples import THOUGHTS
from r0.supervised.stage_c.list_prompter import ListPrompter
from r0.supervised.stage_c.lists import stage_c_source
from r0.supervised.stage_c.measure import EvaluationResult, measure
from r0.supervised.training import driver
from r0.supervised.training import run as training
from r0.supervised.training.job import Job

RANK = "r0.supervised.stage_c.rank:train_rank"
BEFORE, AFTER = "before.json", "after.json"
CHANGE_P = "heldout/ndcg@10_change_p"
FORMAT = "heldout/format_rate"
LOST = 0.1  # a fall of the format rate that is said

log = logging.getLogger("r0")


def run(config: StageCConfig) -> Path:
    """Train, or resume; returns the run directory. Its ``model/`` is an ordinary Hugging Face folder; with LoRA the adapter
    alone is in ``adapter/``.

    Raises:
        UserError: invalid input, found by the driver or by a rank.
        driver.Stopped: a signal asked the run to stop.
    """
    transformers_logging.disable_progress_bar()
    training.check_ranks(config)
    check_source(config)
    folder = model_folder(config.model)
    config = with_date("stage_c", config, folder)
    list_prompter = check_model(config, folder)
    source: TaskSource

    def read(_: Path | None) -> training.Data:
        nonlocal source
        source = stage_c_source(config)
        summary = "\n".join(filter(None, [source.summary(), list_prompter.prompter.template_note]))
        return training.Data(source.steps_per_epoch(config.batch_size), source.facts(), summary)

    def learn(job: Job, directory: RunDirectory, recorder: Recorder, stop: StopRequest) -> training.TrainingResult:
        if not config.ray.inline:
            with stop.at_once():
                start_ray(config)
                stop.install()  # Ray installs its own handlers
                check_nodes(folder, directory.path)
        heldout = [task for task in source.heldout(config.eval_lists) if isinstance(task, ListwiseTask)]
        before = _prepare(job, source, list_prompter, heldout, directory, stop)
        figures = driver.train(job, directory, recorder, stop, before.values)
        after = _evaluate_final(config, directory.path / "model", list_prompter, heldout, directory.path / AFTER)
        _keep_calibration(directory.path, job.steps, after)
        warn_of_lost_answers(config, before, after)
        values = {**after.values, **_change(before, after)}
        if values and not recorder.evaluated(job.steps):  # it was if the run ended before it was marked as finished
            recorder.evaluation(job.steps, values)
        return training.TrainingResult(before.values, values, figures)

    return training.run("stage_c", config, folder, RANK, read, learn)


def check_model(config: StageCConfig, folder: Path) -> ListPrompter:
    """The prompts of a model that stage C can start from.

    Raises:
        UserError: it cannot; with what is wrong and the remedy.
    """
    check_start_model(folder, config.lora, "lora")
    return ListPrompter(config, folder)


def _prepare(
    job: Job[StageCConfig],
    source: TaskSource,
    list_prompter: ListPrompter,
    heldout: Sequence[ListwiseTask],
    directory: RunDirectory,
    stop: StopRequest,
) -> EvaluationResult:
    """Evaluate the starting model on the held-out lists, and sample the completions that training uses."""
    config, path = job.config, directory.path / BEFORE
    before = EvaluationResult.read(path) if heldout else EvaluationResult()
    wanted = rows_of(config, source, job.steps) if config.samples else []
    with CompletionFile(directory.path / THOUGHTS) as file:
        left = [row for row in wanted if row not in file]
        if before is not None and not left:
            return before
        with engines(config, Path(job.model)) as group:
            driver.end_if_asked(stop)
            if before is None:
                before = measure(config, heldout, list_prompter, group)
                _keep_calibration(directory.path, 0, before)
                before.write(path)
            if left:
                done = sample_completions(config, source, left, list_prompter, group, file, stop)
                for _ in progress(done, "sampling completions to keep", len(left)):
                    pass
        if stop() and any(row not in file for row in wanted):
            raise driver.Stopped(stop.exit_code)
    return before


def _evaluate_final(
    config: StageCConfig, model: Path, list_prompter: ListPrompter, heldout: Sequence[ListwiseTask], path: Path
) -> EvaluationResult:
    """Evaluate the final model on the held-out lists."""
    if not heldout:
        return EvaluationResult()
    with engines(config, model) as group:
        after = measure(config, heldout, list_prompter, group)
    after.write(path)
    return after


def warn_of_lost_answers(config: StageCConfig, before: EvaluationResult, after: EvaluationResult) -> None:
    """Name the remedy if training for scores has changed what the model writes."""
    was, now = before.values.get(FORMAT, 0.0), after.values.get(FORMAT, 0.0)
    if was - now > LOST:
        remedy = f"a kl_coef above {config.kl_coef:g} or a lower learning_rate" if config.kl_coef else "kl_coef=0.1"
        log.warning(
            "the share of completions with an answer fell from %.3f to %.3f: training for scores changed what the model writes; "
            "%s keeps its writing",
            was,
            now,
            remedy,
        )


def _keep_calibration(run: Path, step: int, found: EvaluationResult) -> None:
    if found.calibration is not None:
        write_calibration(run / FOLDER, step, found.calibration)


def _change(before: EvaluationResult, after: EvaluationResult) -> dict[str, float]:
    """p-value of a two-sided paired t-test of nDCG@10 over the lists."""
    p = p_value(np.array(after.ndcg), np.array(before.ndcg), "t") if len(before.ndcg) > 1 else None
    return {} if p is None else {CHANGE_P: p}
