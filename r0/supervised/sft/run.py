"""The warm start: supervised fine-tuning on rows (pairs or lists) that carry thinking, on Ray Train with DeepSpeed.

``driver.py`` starts the ranks and shows what rank 0 reports; the ranks (``rank.py``) run transformers' Trainer.
"""

from __future__ import annotations

from pathlib import Path

from r0.config import SftConfig
from r0.errors import UserError
from r0.process.signals import StopRequest
from r0.runs import CardFacts, Recorder, RunDirectory, RunState, flat, write_model_card
from r0.runs.output_path import output_path
from r0.storage.model_checks import check_writes
from r0.storage.models import model_folder
from r0.supervised.training import driver
from r0.supervised.training.job import Job, micro_batch, sft_source, total_steps

RANK = "r0.supervised.sft.rank:train_rank"


def run(config: SftConfig) -> Path:
    """Train, or resume; returns the folder of the final model: an ordinary Hugging Face folder that RL starts from.

    After LoRA the adapter alone lies beside it, in ``adapter/``.

    Raises:
        UserError: bad input, whether the driver or a rank found it.
        driver.Stopped: a signal asked the run to stop.
    """
    micro_batch(config)
    if config.ray.inline and config.ranks > 1:
        raise UserError("ray.inline: runs one rank; set ranks=1")
    folder = model_folder(config.model)
    check_writes(folder)
    output = output_path("sft", config)
    with RunDirectory.open(output, "sft", config, fresh=config.fresh) as directory, StopRequest() as stop:
        model = directory.path / "model"
        if directory.state == RunState.FINISHED:
            print(f"{directory.path}: the warm start is finished; its model is in {model}; fresh=true starts it over")
            return model
        source = sft_source(config)
        print(source.summary())
        epoch = source.steps_per_epoch(config.batch_size)
        job = Job(config, str(folder), str(directory.path), total_steps(config, epoch), epoch, RANK)
        with Recorder(directory, config.tracking, job.steps, config=flat(config)) as recorder:
            figures = driver.train(job, directory, recorder, stop)
            write_model_card(model, config, CardFacts("sft", job.steps, source.facts(), {}, figures))
            directory.finish(job.steps, figures)
            recorder.say(f"done: {job.steps} steps; the model is in {model}")
    return model
