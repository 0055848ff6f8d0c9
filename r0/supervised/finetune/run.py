"""Supervised fine-tuning of a reranker on labelled documents with Ray Train and sentence-transformers.

The driver checks data and model before anything is written, prepares the data in the run directory and starts the ranks.
"""

from __future__ import annotations

from pathlib import Path

from r0.config import FinetuneConfig
from r0.data.jsonl import readable_file
from r0.data.labelled import BUILTIN
from r0.runs.prompt_date import with_date
from r0.storage.models import model_folder
from r0.supervised.finetune.data import Preparation, check_loss, prepared
from r0.supervised.finetune.plan import check_model
from r0.supervised.training import run as training

RANK = "r0.supervised.finetune.rank:train_rank"


def run(config: FinetuneConfig, command: str = "finetune") -> Path:
    """Train, or resume; returns the run directory. Its ``model/`` is what sentence-transformers, transformers and r0.rerank load.

    Raises:
        UserError: invalid input, found by the driver or by a rank.
        driver.Stopped: a signal asked the run to stop.
    """
    training.check_ranks(config)
    check_loss(config)
    if config.validation not in (None, BUILTIN):
        readable_file(Path(str(config.validation)), "a JSONL file of labelled documents, or validation=builtin")
    folder = model_folder(config.model)
    config = with_date(command, config, folder)
    check_model(config, folder)
    resolved, kind = check_loss(config)
    preparation = Preparation(resolved, kind)

    def read(output: Path | None) -> training.Data:
        done = None if output is None else prepared(output / "data")
        counts = done or preparation.check()
        facts = {"training examples": counts.examples, "validation queries": counts.validation_queries}
        lines = [f"{config.data}: {counts.examples} training examples for {resolved.loss_type}"]
        if counts.validation_queries:
            lines.append(f"{config.validation or config.data}: {counts.validation_queries} validation queries")
        return training.Data(counts.examples // config.batch_size, facts, "\n".join([*lines, *counts.notes]))

    def write(output: Path) -> None:
        if prepared(output / "data") is None:
            preparation.write(output / "data")

    return training.run(command, config, folder, RANK, read, write=write, job_config=resolved)
