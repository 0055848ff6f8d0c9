"""Training of a four-class ESCI reranker, on Ray Train.

The driver checks data and model before anything is written, keeps the rows in the run directory and starts the ranks.
"""

from __future__ import annotations

from pathlib import Path

from r0.config import EsciConfig
from r0.runs.output_path import output_path
from r0.storage.models import model_folder
from r0.supervised.esci.data import Preparation, prepared
from r0.supervised.esci.model import check_classifier
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.esci.prompt_file import prompt_settings
from r0.supervised.training import run as training

RANK = "r0.supervised.esci.rank:train_rank"


def run(config: EsciConfig) -> Path:
    """Train, or resume; returns the run directory. Its ``model/`` is a classifier that transformers, sentence-transformers and
    r0.rerank load; after LoRA the adapter of the language model lies beside it, in ``adapter/``.

    Raises:
        UserError: bad input, whether the driver or a rank found it.
        driver.Stopped: a signal asked the run to stop.
    """
    training.check_ranks(config)
    folder = model_folder(config.model)
    check_classifier(folder)
    preparation = Preparation(config, EsciPrompter.open(folder, prompt_settings(config, None)))
    counts = None if config.fresh else prepared(output_path("esci", config) / "data")
    found = counts or preparation.check()

    def prepare(output: Path) -> training.Data:
        if counts is None:
            preparation.write(output / "data", found)
        facts = {"training rows": found.rows, "held-out rows": found.heldout_rows}
        held = f"{found.heldout_rows} of {found.heldout_queries} queries held out"
        summary = "\n".join([f"{config.data}: {found.rows} training rows, {held}", *found.notes])
        return training.Data(found.rows // config.batch_size, facts, summary)

    return training.run("esci", config, folder, RANK, prepare)
