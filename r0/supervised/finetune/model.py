"""The cross-encoder of a fine-tuning: sentence-transformers' own class around a BERT-like model or a decoder.

* bert_encoder: a score head over the pair, as its tokenizer joins it.
* llm_decoder: a score head over the last token of the prompt (``finetune_template``).
* yes_no: no head; logit(yes) − logit(no) where the answer begins (sentence-transformers' ``LogitScore``).

A folder that sentence-transformers saved (``modules.json``) is opened as it is, format and all. A model with two labels is
trained on the difference of their logits (``r0.rerank.two_labels``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import AutoModelForCausalLM

from r0.config import FinetuneConfig
from r0.config.finetune import POINTWISE
from r0.errors import UserError, reason
from r0.rerank.two_labels import give_one_score
from r0.storage.loading import LOADING, attention, check_finite, model_class, own_head, state_tying
from r0.storage.model_checks import architecture
from r0.storage.output_head import exact_logits
from r0.supervised.finetune.plan import Plan
from r0.supervised.training.ranks import prepare_model

HEAD = "sequence-classification"


def open_model(config: FinetuneConfig, folder: Path, plan: Plan, dtype: torch.dtype, device: str) -> CrossEncoder:
    """The cross-encoder, as it is trained. Its configuration says whether an output head is the input embedding.

    Raises:
        UserError: the weights cannot be loaded as this type, or one is not finite.
    """
    model = _opened(config, folder, plan, dtype, device)
    state_tying(model[0].model)
    check_finite(model[0].model, folder)
    exact_logits(model)
    return model


def _opened(config: FinetuneConfig, folder: Path, plan: Plan, dtype: torch.dtype, device: str) -> CrossEncoder:
    activation = torch.nn.Sigmoid() if config.loss_type in POINTWISE else torch.nn.Identity()
    processor: dict[str, Any] = {"model_max_length": config.max_prompt_tokens}
    offline: dict[str, Any] = {"local_files_only": True}
    weights: dict[str, Any] = {"dtype": dtype, **attention(folder)}
    try:
        if plan.kind == "saved":
            kind = model_class(folder)
            model = CrossEncoder(
                str(folder), device=device, activation_fn=activation, model_kwargs=weights, processor_kwargs=processor,
                config_kwargs={} if kind is None else own_head(kind, folder), local_files_only=True,
            )  # fmt: skip
            return _with_one_score(model, config, folder)
        if plan.pad_token is not None:
            processor["pad_token"] = plan.pad_token
        if plan.chat_template is not None:
            processor["chat_template"] = plan.chat_template
        task = "text-generation" if plan.kind == "yes_no" else HEAD
        has_labels = architecture(folder).endswith("ForSequenceClassification")
        labels: dict[str, Any] = {} if has_labels else {"num_labels": 1}
        if plan.kind == "yes_no":
            labels = own_head(AutoModelForCausalLM, folder)
        transformer = Transformer(
            str(folder),
            transformer_task=task,
            model_kwargs={**weights, **offline},
            processor_kwargs={**processor, **offline},
            config_kwargs={**labels, **offline},
        )
    except UserError:
        raise
    except LOADING as error:
        raise UserError(f"model: {folder} cannot be loaded as a {plan.kind}: {reason(error)}") from error
    transformer.model.config.pad_token_id = transformer.tokenizer.pad_token_id
    modules: list[torch.nn.Module] = [transformer]
    if plan.words is not None:
        modules.append(LogitScore(true_token_id=plan.words[0], false_token_id=plan.words[1]))
    model = CrossEncoder(modules=modules, device=device, activation_fn=activation, local_files_only=True)
    return _with_one_score(model, config, folder)


def _with_one_score(model: CrossEncoder, config: FinetuneConfig, folder: Path) -> CrossEncoder:
    """The model with one score per pair.

    Raises:
        UserError: its labels cannot be made one score.
    """
    if model.num_labels == 2 and config.zero_stage == 3:
        raise UserError(f"zero_stage: {folder.name} has two labels, which cannot become one score under ZeRO-3; use zero_stage=2")
    give_one_score(model, folder)
    return model


def add_adapters(model: CrossEncoder, config: FinetuneConfig) -> CrossEncoder:
    """The model with the configured LoRA adapters; a new score head is trained completely.

    Raises:
        UserError: no module has one of the target names.
    """
    transformer = model[0]
    causal = transformer.model.get_output_embeddings() is not None
    transformer.model = prepare_model(transformer.model, config, "CAUSAL_LM" if causal else "SEQ_CLS")
    return model
