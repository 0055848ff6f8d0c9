"""Training of a four-class ESCI reranker on Ray Train.

The driver checks data and model before anything is written, keeps the rows in the run directory and starts the ranks.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM

from r0.actors.learner.adapters import check_targets
from r0.config import EsciConfig
from r0.config.esci_source import COLUMNS
from r0.data.jsonl import readable_file
from r0.runs.prompt_date import with_date
from r0.storage.loading import check_loads
from r0.storage.model_checks import check_unquantized
from r0.storage.models import model_folder
from r0.supervised.esci.data import Counts, Preparation, prepared
from r0.supervised.esci.model import check_classifier
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.esci.prompt_file import prompt_settings
from r0.supervised.training import run as training

RANK = "r0.supervised.esci.rank:train_rank"


def run(config: EsciConfig) -> Path:
    """Train, or resume; returns the run directory. Its ``model/`` is a classifier that transformers, sentence-transformers and
    r0.rerank load; with LoRA the adapter of the language model is in ``adapter/``.

    Raises:
        UserError: invalid input, found by the driver or by a rank.
        driver.Stopped: a signal asked the run to stop.
    """
    training.check_ranks(config)
    readable_file(Path(config.data), COLUMNS)
    folder = model_folder(config.model)
    config = with_date("esci", config, folder)
    preparation = Preparation(config, check_model(config, folder))
    found = Counts()

    def read(output: Path | None) -> training.Data:
        nonlocal found
        found = (None if output is None else prepared(output / "data")) or preparation.check()
        facts = {"training rows": found.rows, "held-out rows": found.heldout_rows}
        held = f"{found.heldout_rows} of {found.heldout_queries} queries held out"
        summary = "\n".join([f"{config.data}: {found.rows} training rows, {held}", *found.notes])
        return training.Data(found.rows // config.batch_size, facts, summary)

    def write(output: Path) -> None:
        if prepared(output / "data") is None:
            preparation.write(output / "data", found)

    return training.run("esci", config, folder, RANK, read, write=write)


def check_model(config: EsciConfig, folder: Path) -> EsciPrompter:
    """The prompts of a model that an ESCI training can start from.

    Raises:
        UserError: it cannot; with what is wrong and the remedy.
    """
    check_unquantized(folder)
    check_classifier(folder)
    prompter = EsciPrompter.open(folder, prompt_settings(config, None))
    model = check_loads(AutoModelForCausalLM, folder)
    if config.lora.r:
        check_targets(model, config.lora.target_modules, "lora")
    return prompter
