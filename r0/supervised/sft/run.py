"""The warm start: supervised fine-tuning on rows (pairs or lists) that carry thinking, on Ray Train with DeepSpeed."""

from __future__ import annotations

from pathlib import Path

from r0.actors.learner.start_model import check_start_model
from r0.config import SftConfig
from r0.data.formats import check_source
from r0.errors import UserError
from r0.runs.prompt_date import with_date
from r0.storage.models import model_folder
from r0.supervised.sft.examples import open_prompter, open_rows
from r0.supervised.training import run as training

RANK = "r0.supervised.sft.rank:train_rank"


def run(config: SftConfig) -> Path:
    """Train, or resume; returns the run directory. Its ``model/`` is an ordinary Hugging Face folder that RL starts from.

    Raises:
        UserError: invalid input, found by the driver or by a rank.
        driver.Stopped: a signal asked the run to stop.
    """
    training.check_ranks(config)
    check_source(config)
    folder = model_folder(config.model)
    check_model(config, folder)
    prompter = open_prompter(config, folder)
    prompter.template.check_thinks()

    def read(_: Path | None) -> training.Data:
        source = open_rows(config)
        summary = "\n".join(filter(None, (source.summary(), prompter.template_note)))
        return training.Data(source.steps_per_epoch(config.batch_size), source.facts(), summary)

    return training.run("sft", with_date("sft", config, folder), folder, RANK, read)


def check_model(config: SftConfig, folder: Path) -> None:
    """Refuse a model that a warm start cannot train.

    Raises:
        UserError: with what is wrong and the remedy.
    """
    tokenizer = check_start_model(folder, config.lora, "lora")
    if tokenizer.eos_token_id is None:
        raise UserError(f"model: the tokenizer of {folder} has no end of sequence; set eos_token in tokenizer_config.json")
