"""The four-class model: a language model whose logits are read at the four label tokens, or the classifier built from it.

Dimensions: B rows, T tokens of the longest prompt, V words of the vocabulary, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.utils import is_flash_attn_2_available

from r0.data.esci import CLASSES, WORDS
from r0.errors import UserError, reason
from r0.storage.model_checks import generates
from r0.supervised.training.causal import load_causal

SCORE = "score.weight"  # [4, H] in the classifier
SCALED = (
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
)  # changes of the logits in some language models, which their classifiers lack


def open_causal(folder: Path, bf16: bool, no_flash_attn: bool, weights: torch.dtype) -> Any:
    """The language model in ``folder``.

    Raises:
        UserError: it cannot be loaded as one.
    """
    flash = bf16 and not no_flash_attn and torch.cuda.is_available() and is_flash_attn_2_available()
    return load_causal(folder, weights, **({"attn_implementation": "flash_attention_2"} if flash else {}))


def class_logits(model: Any, inputs: Mapping[str, Any], words: tuple[int, ...]) -> Tensor:
    """[B, 4] logits of the label tokens behind left-padded prompts, in float32: the last hidden state times their embeddings."""
    logits_BV = model(**inputs).logits[:, -1]
    return logits_BV[:, list(words)].float()


def check_classifier(folder: Path) -> None:
    """Check that a classifier with the same logits can be built from the model, without loading weights.

    Raises:
        UserError: it cannot; with the reason.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model: {folder} cannot be read: {reason(error)}") from error
    name = next(iter(config.architectures or []), "a model of no known kind")
    if not generates(folder):
        raise UserError(f"model: {folder.name} is {name}, and esci starts from a language model; choose one")
    why = f"transformers has no classifier of {config.model_type}" if type(config) not in _CLASSIFIERS else ""
    why = why or next((f"its logits are changed by {key}" for key in SCALED if getattr(config, key, None)), "")
    if not why:
        with torch.device("meta"):
            causal, other = AutoModelForCausalLM.from_config(config), _CLASSIFIERS[type(config)](_of_classes(config))
        head = causal.get_output_embeddings()
        body = {key for key in causal.state_dict() if not key.startswith("lm_head.")}
        if getattr(head, "bias", None) is not None or body != set(other.state_dict()) - {SCORE}:
            why = f"{name} and its classifier have other weights"
    if why:
        raise UserError(f"model: {folder.name} can be no ESCI classifier: {why}; use a model such as Qwen/Qwen3-0.6B")


def classifier(config: PreTrainedConfig, weights: Mapping[str, Tensor], head: Tensor, pad_id: int) -> Any:
    """The classifier (``…ForSequenceClassification``) with the body of a language model and four rows of its head.

    Args:
        config: of the language model.
        weights: of the language model, by name.
        head: [4, H] the rows of its head at the label tokens.
        pad_id: token id of padding, which the classifier ignores.
    """
    settings = _of_classes(config)
    settings.pad_token_id = pad_id
    made = _CLASSIFIERS[type(config)]
    settings.architectures = [made.__name__]
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("lm_head.")}
    return made.from_pretrained(None, config=settings, state_dict={**body, SCORE: head}, dtype=head.dtype)


def head_name(model: Any) -> str:
    """The name of the head's weights in ``model.state_dict()``: that of the embeddings where both are one tensor."""
    head = model.get_output_embeddings().weight
    return next(name for name, parameter in model.named_parameters() if parameter is head)


def _of_classes(config: PreTrainedConfig) -> PreTrainedConfig:
    settings = copy.deepcopy(config)
    settings.num_labels = len(CLASSES)
    settings.id2label, settings.label2id = dict(enumerate(WORDS)), {word: place for place, word in enumerate(WORDS)}
    settings.use_cache = True
    return settings


_CLASSIFIERS = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
