"""Supervised fine-tuning of a reranker on labelled documents, on Ray Train with sentence-transformers.

The driver checks data and model before anything is written, prepares the data in the run directory and starts the ranks.
"""

from __future__ import annotations

from pathlib import Path

from r0.config import FinetuneConfig
from r0.runs.output_path import output_path
from r0.storage.models import model_folder
from r0.supervised.finetune.data import Preparation, check_loss, prepared
from r0.supervised.finetune.plan import plan_model
from r0.supervised.training import run as training

RANK = "r0.supervised.finetune.rank:train_rank"


def run(config: FinetuneConfig, command: str = "finetune") -> Path:
    """Train, or resume; returns the run directory. Its ``model/`` is what sentence-transformers, transformers and r0.rerank load.

    Raises:
        UserError: bad input, whether the driver or a rank found it.
        driver.Stopped: a signal asked the run to stop.
    """
    training.check_ranks(config)
    folder = model_folder(config.model)
    plan_model(config, folder)
    done = None if config.fresh else prepared(output_path(command, config) / "data")
    resolved, kind = check_loss(config)
    preparation = Preparation(resolved, kind)
    found = done or preparation.check()

    def prepare(output: Path) -> training.Data:
        counts = done or preparation.write(output / "data")
        facts = {"training examples": counts.examples, "validation queries": counts.validation_queries}
        lines = [f"{config.data}: {counts.examples} training examples for {resolved.loss_type}"]
        if counts.validation_queries:
            lines.append(f"{config.validation or config.data}: {counts.validation_queries} validation queries")
        return training.Data(counts.examples // config.batch_size, facts, "\n".join([*lines, *found.notes]))

    return training.run(command, config, folder, RANK, prepare, job_config=resolved)
