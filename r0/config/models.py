"""Model presets: settings specific to a model, for all commands that support it (``configs/models/*.yaml``).

A preset lists its commands, its model, and values of their keys; a command uses those keys that it has. In a file,
``model_preset`` has lower precedence than the file's other keys, like ``base:``; on the command line it overrides the file,
but not other keys on the command line. ``notice`` is what users of the model must know, such as a licence.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, model_validator

from r0.config import yamlfile
from r0.config.sections import Section, key
from r0.config.types import TemplateVariables
from r0.errors import UserError

Name = Literal[
    "bert-base-uncased",
    "bge-reranker-v2-m3",
    "deepseek-r1-distill-qwen-1.5b",
    "mobilellm-r1-950m",
    "qwen2.5-1.5b",
    "qwen3-0.6b",
    "qwen3-reranker-0.6b",
    "qwen3-reranker-8b",
]
NAMES: tuple[str, ...] = get_args(Name)
FOLDER = Path(str(files("r0"))) / "configs" / "models"


@dataclass(frozen=True)
class Preset:
    """One file of ``configs/models``."""

    name: str
    commands: tuple[str, ...]  # the commands that support the model
    values: Mapping[str, Any]  # values of their keys; sections are mappings
    notice: str = ""
    shape: Mapping[str, Any] = field(default_factory=dict)

    def values_for(self, config: type[BaseModel]) -> dict[str, Any]:
        """The values of the keys that this configuration has; a copy, into which other values may be written."""
        return {name: copy.deepcopy(value) for name, value in self.values.items() if name in config.model_fields}


@cache
def preset(name: str) -> Preset:
    """The preset ``name``, one of ``NAMES``."""
    values = dict(yamlfile.read(FOLDER / f"{name}.yaml").values)
    return Preset(name, tuple(values.pop("commands")), notice=values.pop("notice", ""), shape=values.pop("shape"), values=values)


class ModelKeys(Section):
    """Keys of all commands that use a model."""

    model_preset: Name | None = key(None, "a model with suitable settings, from the shipped configs/models")
    chat_template_kwargs: TemplateVariables = key(
        {},
        "variables of the model's chat template, such as enable_thinking: true; empty: those that the model was trained with. A "
        "template that closes the thought is given enable_thinking or thinking as true, if it has one of them. strftime_now is "
        "the date that a template reads as today's, such as 2026-01-31; not given: the day on which the run began",
    )

    @model_validator(mode="before")
    @classmethod
    def _lay_preset(cls, given: Any) -> Any:
        """Use the preset's values for keys that are not given."""
        if not isinstance(given, dict) or given.get("model_preset") not in NAMES:
            return given  # the field's own validation reports the error
        return yamlfile.merge(preset(given["model_preset"]).values_for(cls), given)


def check_preset(command: str, config: BaseModel) -> None:
    """Refuse a preset that does not support the command.

    Raises:
        UserError: with the commands that it supports.
    """
    name = getattr(config, "model_preset", None)
    if name is not None and command not in preset(name).commands:
        supported = ", ".join(preset(name).commands)
        raise UserError(f"model_preset: {name} supports {supported}, but not {command}; use another model")


def notice(model: str) -> str:
    """What users of ``model`` must know; usually empty."""
    return next((one.notice for one in map(preset, NAMES) if one.values["model"] == model), "")


def known_shape(model: str) -> Mapping[str, Any]:
    """The keys of the ``config.json`` of a preset's model that say how large it is; empty for other models."""
    return next((one.shape for one in map(preset, NAMES) if one.values["model"] == model), {})
