"""Training of a four-class ESCI reranker, on Ray Train.

The driver checks data and model before anything is written, keeps the rows in the run directory and starts the ranks.
"""

from __future__ import annotations

from pathlib import Path

from r0.config import EsciConfig
from r0.errors import UserError
from r0.process.signals import StopRequest
from r0.runs import CardFacts, Recorder, RunDirectory, RunState, flat, read_record, write_model_card
from r0.runs.output_path import output_path
from r0.storage.models import model_folder
from r0.supervised.esci.data import Counts, Preparation, prepared
from r0.supervised.esci.model import check_classifier
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.esci.told import to_tell
from r0.supervised.training import driver
from r0.supervised.training.job import Job, micro_batch, total_steps

RANK = "r0.supervised.esci.rank:train_rank"


def run(config: EsciConfig) -> Path:
    """Train, or resume; returns the run directory. Its ``model/`` is a classifier that transformers, sentence-transformers and
    r0.rerank load; after LoRA the adapter of the language model lies beside it, in ``adapter/``.

    Raises:
        UserError: bad input, whether the driver or a rank found it.
        driver.Stopped: a signal asked the run to stop.
    """
    micro_batch(config)
    if config.ray.inline and config.ranks > 1:
        raise UserError("ray.inline: runs one rank; set ranks=1")
    folder, output = model_folder(config.model), output_path("esci", config)
    check_classifier(folder)
    preparation = Preparation(config, EsciPrompter.open(folder, to_tell(config, None)))
    counts = None if config.fresh else prepared(output / "data")
    found = counts or preparation.check()
    with RunDirectory.open(output, "esci", config, fresh=config.fresh) as directory, StopRequest() as stop:
        if directory.state == RunState.FINISHED:
            print(f"{directory.path}: finished before; the model is in its folder model/ (fresh=true starts over)")
            return directory.path
        if counts is None:
            preparation.write(directory.path / "data", found)
        print(_summary(config, found))
        epoch = found.rows // config.batch_size
        job = Job(config, str(folder), str(directory.path), total_steps(config, epoch), epoch, RANK)
        with Recorder(directory, config.tracking, job.steps, config=flat(config)) as recorder:
            figures = driver.train(job, directory, recorder, stop)
            facts = {"training rows": found.rows, "held-out rows": found.heldout_rows}
            first = next((line for line in read_record(directory.metrics_file) if "heldout/loss" in line), {})
            before = {name: value for name, value in first.items() if name.startswith("heldout/") and value is not None}
            write_model_card(directory.path / "model", config, CardFacts("esci", job.steps, facts, before, figures))
            directory.finish(job.steps, figures)
            recorder.say(f"done: {job.steps} steps; the model is in {directory.path / 'model'}")
    return directory.path


def _summary(config: EsciConfig, counts: Counts) -> str:
    """What is trained on what, and what a person should know of the data."""
    held = f"{counts.heldout_rows} of {counts.heldout_queries} queries held out"
    return "\n".join([f"{config.data}: {counts.rows} training rows, {held}", *counts.notes])
