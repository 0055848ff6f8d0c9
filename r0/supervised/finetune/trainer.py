"""sentence-transformers' CrossEncoderTrainer with r0's saving, and the writing of a cross-encoder's folder, which
sentence-transformers and transformers load."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder import CrossEncoderTrainer

from r0.supervised.training.report import StepValues

INNER = "0.model."  # prefix of the transformer's weights in the cross-encoder's state dict


class Trainer(StepValues, CrossEncoderTrainer):
    """sentence-transformers' Trainer that saves gathered weights (the library's are empty under ZeRO-3), without pickles."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none: r0 writes the model card."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        save_cross_encoder(self.cross_encoder, Path(output_dir or self.args.output_dir), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        inner = transformer_of(self.cross_encoder).model
        if self.is_fsdp_enabled:  # sentence-transformers' own knows neither FSDP nor adapters
            transformers.Trainer._load_from_checkpoint(self, resume_from_checkpoint, model)
        elif isinstance(inner, PeftModel):
            set_peft_model_state_dict(inner, load_peft_weights(resume_from_checkpoint, device="cpu"))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint)

    @property
    def cross_encoder(self) -> CrossEncoder:
        """The model without wrappers."""
        return self.accelerator.unwrap_model(self.model)


def save_cross_encoder(model: CrossEncoder, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a cross-encoder to ``folder``.

    Args:
        model: its format and settings are written.
        folder: the folder.
        weights: by name as in ``model.state_dict()``; None: the model's weights, which are empty under ZeRO-3.
    """
    transformer = transformer_of(model)
    inner = transformer.model
    if weights is not None:
        own = {name.removeprefix(INNER): tensor for name, tensor in weights.items() if name.startswith(INNER)}
        inner.save_pretrained = partial(type(inner).save_pretrained, inner, state_dict=own)
    try:
        model.save_pretrained(str(folder), create_model_card=False)
    finally:
        inner.__dict__.pop("save_pretrained", None)


def transformer_of(model: CrossEncoder) -> Transformer:
    """The transformer inside a cross-encoder, with its tokenizer."""
    first = model[0]
    if not isinstance(first, Transformer):
        raise TypeError(f"a cross-encoder of {type(first).__name__} cannot be saved")
    return first
