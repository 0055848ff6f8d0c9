"""Supervised fine-tuning of a reranker on labelled documents, on Ray Train with sentence-transformers.

The driver checks data and model before anything is written, prepares the data in the run directory and starts the ranks
(``finetune_rank.py``).
"""

from __future__ import annotations

from pathlib import Path

from r0.config import FinetuneConfig
from r0.errors import UserError
from r0.process.signals import StopRequest
from r0.runs import CardFacts, Recorder, RunDirectory, RunState, flat, read_record, write_model_card
from r0.runs.output_path import output_path
from r0.storage.models import model_folder
from r0.supervised.finetune.data import Counts, Preparation, check_loss, prepared
from r0.supervised.finetune.plan import plan_model
from r0.supervised.training import driver
from r0.supervised.training.job import Job, micro_batch, total_steps

RANK = "r0.supervised.finetune.rank:train_rank"


def run(config: FinetuneConfig, command: str = "finetune") -> Path:
    """Train, or resume; returns the folder of the final model, which sentence-transformers, transformers and r0.rerank load.

    After LoRA the adapter alone lies beside it, in ``adapter/``.

    Raises:
        UserError: bad input, whether the driver or a rank found it.
        driver.Stopped: a signal asked the run to stop.
    """
    micro_batch(config)
    if config.ray.inline and config.ranks > 1:
        raise UserError("ray.inline: runs one rank; set ranks=1")
    folder = model_folder(config.model)
    plan_model(config, folder)
    output = output_path(command, config)
    counts = None if config.fresh else prepared(output / "data")
    resolved, kind = check_loss(config)
    preparation = Preparation(resolved, kind)
    found = counts or preparation.check()
    with RunDirectory.open(output, command, config, fresh=config.fresh) as directory, StopRequest() as stop:
        model = directory.path / "model"
        if directory.state == RunState.FINISHED:
            print(f"{directory.path}: the fine-tuning is finished; its model is in {model}; fresh=true starts it over")
            return model
        counts = counts or preparation.write(directory.path / "data")
        print(_summary(resolved, counts, found))
        epoch = counts.examples // config.batch_size
        job = Job(resolved, str(folder), str(directory.path), total_steps(config, epoch), epoch, RANK)
        with Recorder(directory, config.tracking, job.steps, config=flat(config)) as recorder:
            figures = driver.train(job, directory, recorder, stop)
            facts = {"training examples": counts.examples, "validation queries": counts.validation_queries}
            before = next((line for line in read_record(directory.metrics_file) if "heldout/loss" in line), {})
            known = {name: value for name, value in before.items() if name.startswith("heldout/") and value is not None}
            write_model_card(model, config, CardFacts(command, job.steps, facts, known, figures))
            directory.finish(job.steps, figures)
            recorder.say(f"done: {job.steps} steps; the model is in {model}")
    return model


def _summary(config: FinetuneConfig, counts: Counts, found: Counts) -> str:
    """What is trained on what, and what a person should know of the data."""
    lines = [f"{config.data}: {counts.examples} training examples for {config.loss_type}"]
    if counts.validation_queries:
        lines.append(f"{config.validation or config.data}: {counts.validation_queries} validation queries")
    return "\n".join([*lines, *found.notes])
