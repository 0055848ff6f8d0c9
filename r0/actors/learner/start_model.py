"""Checks before weights are loaded that a language model can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r0.actors.rollout.settings import stop_ids
from r0.config import LoraSection
from r0.storage.model_checks import check_unquantized, check_writes
from r0.text.tokenizer import open_tokenizer


def check_start_model(folder: Path, lora: LoraSection, key: str) -> Any:
    """Check that a model can be trained as a language model.

    Args:
        folder: of the model.
        lora: the adapters that are asked for.
        key: their section in the configuration.

    Returns:
        The model's tokenizer.

    Raises:
        UserError: it generates no text, is quantized, its files lack weights, it has no end of sequence, its tokenizer does not
            fit it, or it has no layer that an adapter can go on.
    """
    from transformers import AutoModelForCausalLM

    from r0.actors.learner.adapters import check_targets
    from r0.storage.loading import check_loads

    check_writes(folder)
    check_unquantized(folder)
    stop_ids(folder)
    tokenizer = open_tokenizer(folder, pads=True)
    model = check_loads(AutoModelForCausalLM, folder)
    if lora.r:
        check_targets(model, lora.target_modules, key)
    return tokenizer
