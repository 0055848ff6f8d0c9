"""How many positions a model has, as its config.json tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r0.storage.model_checks import read_json

KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
STRETCHED = ("linear", "dynamic", "yarn")  # kinds of rope scaling whose factor is not in the positions yet


def positions(folder: Path) -> int | None:
    """Positions that a model has, in tokens, rope scaling included; None where its configuration does not say.

    Raises:
        UserError: config.json is not JSON.
    """
    return positions_of(read_json(folder / "config.json"))


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Positions by the content of a config.json; see ``positions``.

    ``linear``, ``dynamic`` and ``yarn`` multiply the positions that the model was trained with: those named beside the factor,
    else the model's. ``llama3`` and ``longrope`` do not: their models state the stretched number.
    """
    text = config.get("text_config")
    config = {**config, **text} if isinstance(text, Mapping) else config
    found = next((config[key] for key in KEYS if isinstance(config.get(key), int)), None)
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if found is None or not isinstance(scaling, Mapping) or str(config.get("model_type", "")).startswith("gemma3"):
        return found  # Gemma 3 states the stretched number too
    factor = scaling.get("factor")
    if scaling.get("rope_type", scaling.get("type")) not in STRETCHED or not isinstance(factor, int | float):
        return found
    trained = scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings") or found
    return max(found, int(trained * factor)) if isinstance(trained, int) else found
