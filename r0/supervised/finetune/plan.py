"""How to open the starting model of ``finetune``, determined from its configuration and tokenizer before weights are loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from r0.actors.learner.adapters import check_targets
from r0.config import FinetuneConfig
from r0.config.finetune import FORMATS
from r0.errors import UserError
from r0.records import Form
from r0.rerank.encoder_worker import text_tokens
from r0.rerank.two_labels import check_labels
from r0.storage.loading import check_loads, model_class
from r0.storage.model_checks import architecture, check_unquantized, generates
from r0.supervised.finetune.template import PairFormat, answer_words, pair_format
from r0.text.prompt_file import load_system_prompt, template_variables
from r0.text.tokenizer import open_tokenizer

HEADED = ("bert_encoder", "llm_decoder")  # kinds with a score head


@dataclass(frozen=True)
class Plan:
    """How a model is opened. ``chat_template`` is for decoders, ``words`` (ids of yes and no) for yes_no."""

    kind: str
    pad_token: str | None = None
    chat_template: str | None = None
    words: tuple[int, int] | None = None


def plan_model(config: FinetuneConfig, folder: Path) -> Plan:
    """The plan for a model; loads no weights.

    Raises:
        UserError: the model is not of the type, has too few positions, or its tokenizer cannot be used.
    """
    name = architecture(folder)
    _check_positions(config, folder)
    if (folder / "modules.json").is_file():
        _check_saved(config, folder)
        return Plan("saved")
    kind = config.model_type
    if kind == "auto":
        kind = "yes_no" if generates(folder) else "bert_encoder"
    if kind in HEADED and name.endswith("ForSequenceClassification"):
        check_labels(folder)
    formats = [name for name in FORMATS if getattr(config, name) not in (None, "", "{}")]
    if kind == "bert_encoder" and formats:
        raise UserError(f"{formats[0]}: is for decoders, and {folder.name} is a bert_encoder; use model_type=llm_decoder")
    if config.chat_template_kwargs and (kind != "yes_no" or any(getattr(config, name) is not None for name in FORMATS)):
        raise UserError(
            "chat_template_kwargs: is for model_type=yes_no with r0's own prompt, and this format has no chat template; remove it"
        )
    if kind == "yes_no" and not generates(folder):
        found = name or "of no known kind"
        raise UserError(f"model_type: yes_no needs a causal language model, and {folder.name} is {found}; use bert_encoder")
    tokenizer = open_tokenizer(folder, pads=True)
    pad = tokenizer.pad_token or tokenizer.eos_token
    if pad is None:
        raise UserError("model: its tokenizer has neither a padding nor an end token; set pad_token in tokenizer_config.json")
    if kind == "bert_encoder":
        return Plan(kind, pad)
    system_prompt = config.system_prompt or load_system_prompt(folder, Form.YES_NO)
    variables = template_variables(folder, config.chat_template_kwargs)
    pair, words = pair_format(config, tokenizer, kind == "yes_no", system_prompt, variables), None
    if kind == "yes_no":
        place = answer_words(tokenizer, pair)
        pair, words = place.format, (place.yes, place.no)
    template = pair.chat_template(tokenizer)
    _check_prompt(config, tokenizer, pair, pad)
    return Plan(kind, pad, template, words)


def check_model(config: FinetuneConfig, folder: Path) -> Plan:
    """How a model is opened, after checking that it can be trained.

    Raises:
        UserError: as ``plan_model``; it is quantized, its files lack weights, or it has no layer that an adapter can go on.
    """
    check_unquantized(folder)
    plan = plan_model(config, folder)
    kind = AutoModelForCausalLM if plan.kind == "yes_no" else AutoModelForSequenceClassification
    if plan.kind == "saved":
        kind = model_class(folder)
    new_head = plan.kind in HEADED and not architecture(folder).endswith("ForSequenceClassification")
    model = None if kind is None else check_loads(kind, folder, new_head=new_head)
    if model is not None and config.lora.r:
        check_targets(model, config.lora.target_modules, "lora")
    return plan


def has_scores(config: FinetuneConfig, plan: Plan, folder: Path) -> bool:
    """Whether a starting model has scores before training: a trained head, or the logits of yes and no."""
    if plan.kind == "bert_encoder":
        return architecture(folder).endswith("ForSequenceClassification")
    return plan.kind in ("saved", "yes_no")


def _check_positions(config: FinetuneConfig, folder: Path) -> None:
    positions = text_tokens(folder)
    if positions is not None and 0 < positions < config.max_prompt_tokens:
        raise UserError(
            f"max_prompt_tokens: {config.max_prompt_tokens} tokens are more than the {positions} positions of {folder.name}; use "
            f"max_prompt_tokens={positions}, and longer documents are cut"
        )


def _check_saved(config: FinetuneConfig, folder: Path) -> None:
    given = [name for name in (*FORMATS, "system_prompt", "chat_template_kwargs") if getattr(config, name)]
    if given:
        raise UserError(f"{given[0]}: {folder.name} brings its own format (it is a sentence-transformers folder); leave it out")
    try:
        kind = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError):
        kind = None
    if kind not in (None, "CrossEncoder"):
        raise UserError(f"model: {folder.name} is a {kind} of sentence-transformers, not a CrossEncoder; choose another model")


def _check_prompt(config: FinetuneConfig, tokenizer: Any, pair: PairFormat, pad: str) -> None:
    """The format leaves room for texts, and does not end with padding, which score heads look past."""
    ids = tokenizer.encode(pair.before + pair.between + pair.behind, add_special_tokens=False)
    if len(ids) + 8 > config.max_prompt_tokens:
        raise UserError(
            f"max_prompt_tokens: the format alone takes {len(ids)} tokens of {config.max_prompt_tokens}; raise it, or shorten it"
        )
    if pair.behind and ids[-1] == tokenizer.convert_tokens_to_ids(pad):
        raise UserError(f"special_token: {pair.behind!r} ends with the padding token, which is not read; use another one")
