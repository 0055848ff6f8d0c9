"""The date that a chat template reads as today's: the day on which a run began, also when it goes on later."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TypeVar

from r0.config import yamlfile
from r0.config.sections import Section
from r0.config.types import DATE
from r0.runs.claim import CONFIG
from r0.runs.output_path import output_path
from r0.text.prompt_file import template_variables
from r0.text.template_variables import Variables, reads_date

Config = TypeVar("Config", bound=Section)


def with_date(command: str, config: Config, folder: Path) -> Config:
    """The configuration of a run, with the date and its output if the chat template of the model in ``folder`` reads a date.

    A date that is given or that the model was trained with is kept; else it is that of the run's ``config.yaml``, or today's.

    Raises:
        UserError: as ``output_path``; ``config.yaml`` is not valid.
    """
    given: Variables = getattr(config, "chat_template_kwargs", {})
    if DATE in template_variables(folder, given) or not reads_date(folder):
        return config
    output = output_path(command, config)
    known = output / CONFIG
    there = yamlfile.read(known).values if known.is_file() and not getattr(config, "fresh", False) else {}
    day = (there.get("chat_template_kwargs") or {}).get(DATE) or date.today().isoformat()
    return config.model_copy(update={"output": str(output), "chat_template_kwargs": {**given, DATE: day}})
