"""A model's ``config.json`` and shape: from its folder, or from its preset if the model is not on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r0.actors.memory.shape import ModelShape
from r0.config.models import known_shape
from r0.storage.model_checks import read_json
from r0.storage.models import local_folder
from r0.storage.weight_files import parameters


def look_up_model(model: str) -> tuple[Mapping[str, Any], ModelShape] | None:
    """Configuration and shape of a model; None if there is neither a folder nor a preset of this name.

    Raises:
        UserError: the name can only be a folder and there is none, or its files cannot be read.
    """
    folder = local_folder(model)
    return look_up_folder(folder) if folder is not None else _with_shape(known_shape(model), None)


def look_up_folder(folder: Path) -> tuple[Mapping[str, Any], ModelShape] | None:
    """Configuration and shape of the model in ``folder``; None if it is no transformer of a known layout.

    Raises:
        UserError: its files cannot be read.
    """
    return _with_shape(read_json(folder / "config.json"), parameters(folder))


def _with_shape(config: Mapping[str, Any], stored: int | None) -> tuple[Mapping[str, Any], ModelShape] | None:
    try:
        return config, ModelShape.of(config, stored)
    except KeyError:
        return None
