"""sentence-transformers' CrossEncoderTrainer as r0 runs it, and a cross-encoder on the disk: a folder that sentence-transformers
and transformers load, with the weights that were gathered."""

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

from r0.supervised.training.ranks import StepValues

INNER = "0.model."  # where the weights of the transformer stand in those of the cross-encoder


class Trainer(StepValues, CrossEncoderTrainer):
    """sentence-transformers' own, but for what it saves: the gathered weights (its own are empty under ZeRO-3), and no pickle."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: r0 writes the card."""

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
        """The model itself, whatever it is wrapped in."""
        return self.accelerator.unwrap_model(self.model)


def save_cross_encoder(model: CrossEncoder, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write ``folder``.

    Args:
        model: whose format and settings are written.
        folder: where to.
        weights: by name as in ``model.state_dict()``; None: the model's own. Under ZeRO-3 those are empty.
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
