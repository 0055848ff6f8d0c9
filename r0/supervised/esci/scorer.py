"""Inference with an ESCI model on one device: a classifier trained by r0, or a language model with or without an adapter.

Dimensions: B rows of a batch, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from r0.config import EsciEvalConfig
from r0.data.esci import EsciRow
from r0.errors import UserError, reason
from r0.process.device import avoid_cudnn_attention
from r0.storage.loading import load_model
from r0.storage.model_checks import architecture, generates
from r0.storage.models import model_folder
from r0.supervised.esci.examples import EsciCollate
from r0.supervised.esci.model import class_logits, open_causal
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.esci.prompt_file import FILE, PromptSettings, load_prompt_settings, prompt_settings
from r0.supervised.training.causal import supports_logits_to_keep
from r0.supervised.training.ranks import to_device

ADAPTER = "adapter_config.json"
SORTED = 16  # batches whose rows are sorted by length together, so that a batch needs little padding


class Scorer:
    """Scores rows. The constructor checks everything that needs no weights; ``load`` loads them.

    Raises:
        UserError: model, adapter or tokenizer cannot be used.
    """

    def __init__(self, config: EsciEvalConfig):
        self._config, self._folder = config, model_folder(config.model)
        kind = architecture(self._folder)
        self._classifies = kind.endswith("ForSequenceClassification")
        self._adapter = _adapter_folder(config.adapter)
        known = load_prompt_settings(self._adapter or self._folder)
        if self._classifies and known is None:
            raise UserError(f"model: {self._folder} is a classifier without {FILE}; give the model/ of an esci run")
        if self._classifies and self._adapter:
            raise UserError("adapter: model is the trained one already; leave adapter out, or give the base model")
        if not self._classifies and not generates(self._folder):
            raise UserError(f"model: {self._folder} is {kind or 'of no known kind'} and no language model; choose one")
        self.settings: PromptSettings = prompt_settings(config, known)
        self.prompter = EsciPrompter.open(self._folder, self.settings)
        self._gpu = torch.cuda.is_available()
        self._device = torch.device("cuda" if self._gpu else "cpu")

    def load(self) -> None:
        """Load the weights.

        Raises:
            UserError: they cannot be loaded, or the adapter is of another model.
        """
        if self._gpu:
            avoid_cudnn_attention()
        config = self._config
        bf16 = config.dtype == "bf16" or (config.dtype == "auto" and self._gpu)
        weights = torch.bfloat16 if bf16 else torch.float32
        if self._classifies:
            model = load_model(AutoModelForSequenceClassification, self._folder, dtype=weights)
            self._logits_to_keep = False
        else:
            model = open_causal(self._folder, bf16, config.no_flash_attn, weights)
            self._logits_to_keep = supports_logits_to_keep(model)
            if self._adapter:
                model = _with_adapter(model, self._adapter)
        self._model: Any = model.to(self._device).eval()

    def probabilities(self, rows: Sequence[EsciRow]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield indices into ``rows`` and their class probabilities [B, 4], batch by batch.

        Raises:
            UserError: a query leaves no room for its item.
        """
        size, collate = self._config.batch_size, EsciCollate(self.prompter, self._logits_to_keep)
        for start in range(0, len(rows), SORTED * size):
            places = range(start, min(len(rows), start + SORTED * size))
            prompts = {place: self.prompter.ids(rows[place].query, rows[place].item) for place in places}
            order = sorted(places, key=lambda place: len(prompts[place]))
            for first in range(0, len(order), size):
                batch = order[first : first + size]
                yield batch, self._logits(collate.inputs([prompts[place] for place in batch])).double().softmax(dim=1).cpu()

    @torch.no_grad()
    def _logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        inputs = to_device(inputs, self._device)
        if self._classifies:
            return self._model(**inputs).logits.float()
        return class_logits(self._model, inputs, self.prompter.words)


def _adapter_folder(given: str | None) -> Path | None:
    """The folder of the adapter: the given folder, or ``adapter/`` in the given run."""
    if given is None:
        return None
    folder = Path(given).expanduser()
    for one in (folder, folder / "adapter"):
        if (one / ADAPTER).is_file():
            return one
    raise UserError(f"adapter: {folder} holds no {ADAPTER}; give the adapter/ of an esci run with lora.r above 0")


def _with_adapter(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"adapter: {folder} does not fit the model ({reason(error)}); give the base model it was trained on"
        ) from error
