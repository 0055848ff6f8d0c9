"""The warm start: supervised fine-tuning on rows (pairs or lists) that carry thinking, on Ray Train with DeepSpeed."""

from __future__ import annotations

from pathlib import Path

from r0.config import SftConfig
from r0.storage.model_checks import check_writes
from r0.storage.models import model_folder
from r0.supervised.sft.examples import open_rows
from r0.supervised.training import run as training

RANK = "r0.supervised.sft.rank:train_rank"


def run(config: SftConfig) -> Path:
    """Train, or resume; returns the run directory. Its ``model/`` is an ordinary Hugging Face folder that RL starts from.

    Raises:
        UserError: bad input, whether the driver or a rank found it.
        driver.Stopped: a signal asked the run to stop.
    """
    training.check_ranks(config)
    folder = model_folder(config.model)
    check_writes(folder)

    def prepare(_: Path) -> training.Data:
        source = open_rows(config)
        return training.Data(source.steps_per_epoch(config.batch_size), source.facts(), source.summary())

    return training.run("sft", config, folder, RANK, prepare)
