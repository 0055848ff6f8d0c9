"""The folder of a trained ESCI model: a classifier for transformers, and for sentence-transformers a cross-encoder of one score.

Two modules of the library follow the four logits: softmax, and (3P(E) + 2P(S) + P(C)) / 3. So its ``CrossEncoder`` predicts the
score in 0…1 and ranks by it, like ``r0.rerank``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer

from r0.data.esci import GAINS
from r0.supervised.esci.model import classifier, head_name
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.training.save import Weights, Write, write_pretrained
from r0.text.template import DEFAULT_CHAT_TEMPLATE


def folder_writers(prompter: EsciPrompter) -> tuple[Write, Write]:
    """Functions that write the folders of the final model and of its adapter."""

    def write(folder: Path, model: Any, gathered: Weights | None) -> None:
        weights = {name: tensor.detach().cpu() for name, tensor in (gathered or model.state_dict()).items()}
        head = weights[head_name(model)][list(prompter.words)]
        made = classifier(model.config, weights, head, prompter.tokenizer.pad_token_id).to(model.dtype)
        write_model(folder, made, prompter)

    def write_adapter(folder: Path, model: Any, gathered: Weights | None) -> None:
        write_pretrained(folder, model, gathered)
        prompter.settings.save(folder)

    return write, write_adapter


def write_model(folder: Path, model: Any, prompter: EsciPrompter) -> None:
    """Write classifier, tokenizer and the files of other libraries into ``folder``."""
    tokenizer = pair_tokenizer(prompter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder), transformer_task="sequence-classification", model_kwargs={"dtype": model.dtype})
    modules = [transformer, *score_modules()]
    inner = ["1.linear", "2.linear"]  # bf16 cannot represent 2/3
    encoder = CrossEncoder(modules=modules, device="cpu", activation_fn=torch.nn.Identity(), keep_in_fp32_modules=inner)
    encoder.save_pretrained(str(folder), create_model_card=False)
    prompter.settings.save(folder)


def pair_tokenizer(prompter: EsciPrompter) -> Any:
    """The tokenizer of ``prompter``, changed in place: its chat template renders pairs too."""
    tokenizer = prompter.tokenizer
    if not tokenizer.chat_template:  # r0's default template, after the bos token if there is one
        begins = prompter.template.head.startswith(tokenizer.bos_token or "\0")
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + DEFAULT_CHAT_TEMPLATE
    tokenizer.chat_template = prompter.pair.chat_template(tokenizer)
    tokenizer.model_max_length = prompter.settings.max_prompt_tokens
    return tokenizer


def score_modules() -> list[torch.nn.Module]:
    """The modules that map logits [B, 4] to probabilities, and probabilities to the score [B, 1]."""
    share = torch.tensor([[gain / max(GAINS) for gain in GAINS]])
    softmax = Dense(
        len(GAINS), len(GAINS), bias=False, activation_function=torch.nn.Softmax(), init_weight=torch.eye(len(GAINS)),
        module_input_name="scores", module_output_name="probabilities",
    )  # fmt: skip
    score = Dense(
        len(GAINS), 1, bias=False, activation_function=torch.nn.Identity(), init_weight=share,
        module_input_name="probabilities", module_output_name="scores",
    )  # fmt: skip
    return [softmax, score]
