"""Reads a model's config.json and checks whether the model can be used for a task; loads no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from r0.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the model's folder; empty if the file does not exist.

    Raises:
        UserError: the file is not valid JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"model: {path} is not valid JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def model_config(folder: Path) -> dict[str, Any]:
    """A model's config.json.

    Raises:
        UserError: the file is missing or not valid JSON.
    """
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"model: {folder / 'config.json'} cannot be read: {error}") from None


def architecture(folder: Path) -> str:
    """The class name of a model, such as ``Qwen3ForCausalLM``; empty if config.json has none.

    Raises:
        UserError: config.json is missing or not valid JSON.
    """
    return str(next(iter(model_config(folder).get("architectures") or []), ""))


def check_writes(folder: Path) -> None:
    """Refuse a model that cannot generate text; transformers would load it with a randomly initialized head.

    Raises:
        UserError: its configuration names another kind of model.
    """
    name = architecture(folder)
    if name and not name.endswith(("ForCausalLM", "ForConditionalGeneration")):
        raise UserError(f"model: {folder.name} is a {name}, which generates no text; use a causal language model, or finetune it")
