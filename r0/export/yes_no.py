"""Which models score a pair by logit(yes) − logit(no) behind a fixed prompt, and what their score is made of.

* A folder that was saved as a ``CrossEncoder`` with the module ``LogitScore`` (``finetune``, ``distill``, ``stage_c``) brings
  prompt, token ids and activation along.
* Any other language model is scored as ``rerank method=pointwise thinking=false`` does: r0's prompt, an empty thought, P(yes).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r0.errors import UserError
from r0.records import Form
from r0.storage.cross_encoder_files import SETTINGS, SIGMOID
from r0.storage.model_checks import architecture, generates, quantization, read_json
from r0.supervised.finetune.template import answer_words, own_prompt
from r0.text.prompt_file import load_system_prompt, stored_form, template_variables
from r0.text.tokenizer import open_tokenizer


@dataclass(frozen=True)
class YesNo:
    """The score of a decoder.

    Args:
        yes, no: the ids of the two tokens whose logits are compared.
        activation: path of the class in ``torch.nn`` that is applied to the difference.
        tokenizer: the model's; its chat template writes a pair of the roles ``query`` and ``document``.
    """

    yes: int
    no: int
    activation: str
    tokenizer: Any


def read_yes_no(folder: Path, thinking: bool | None) -> YesNo:
    """The score of the model in ``folder``; loads no weights.

    Args:
        folder: of the model.
        thinking: False allows the score without a thought of a model that writes one; a fixed prompt has no other.

    Raises:
        UserError: the model has another kind of score, or none without a thought.
    """
    if thinking:
        raise UserError("thinking: a sequence classifier writes no thought; use thinking=false, or `r0 serve` for thoughts")
    name = architecture(folder)
    if name.endswith("ForSequenceClassification"):
        raise UserError(
            f"model: {folder} is a sequence classifier already ({name}); sentence-transformers and vLLM load this folder as it is"
        )
    if method := quantization(folder):
        raise UserError(f"model: {folder} is quantized ({method}), and its output layer cannot be read; give the original model")
    if (folder / "modules.json").is_file():
        return _saved(folder)
    if not generates(folder):
        kind = name or "model of no known kind"
        raise UserError(f"model: {folder} is a {kind}, which says neither yes nor no; finetune it first")
    return _language_model(folder, thinking)


def _language_model(folder: Path, thinking: bool | None) -> YesNo:
    form = stored_form(folder)
    if form not in (None, Form.YES_NO):
        raise UserError(
            f"model: {folder} was trained to answer about lists ({form}), and a sequence classifier scores one document; use "
            "`r0 serve` or `r0 rerank`"
        )
    if thinking is None:
        raise UserError(
            f"model: {folder} may think before it answers, and a sequence classifier cannot; add thinking=false to export its "
            "score without a thought, which is that of `r0 rerank method=pointwise thinking=false`"
        )
    tokenizer = open_tokenizer(folder, pads=True)
    variables = template_variables(folder, {})
    words = answer_words(tokenizer, own_prompt(tokenizer, load_system_prompt(folder, Form.YES_NO), variables))
    tokenizer.chat_template = words.format.chat_template(tokenizer, trims=False)
    return YesNo(words.yes, words.no, SIGMOID, tokenizer)


def _saved(folder: Path) -> YesNo:
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(one["type"]).rpartition(".")[2] for one in modules]
        paths = [str(one["path"]) for one in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"model: {folder / 'modules.json'} is damaged ({error}); copy it again from the run") from None
    if kinds != ["Transformer", "LogitScore"]:
        raise UserError(
            f"model: {folder} scores with modules that no sequence classifier has ({', '.join(kinds[1:]) or 'none'}); load the "
            "folder with sentence-transformers as it is"
        )
    words = read_json(folder / paths[1] / "config.json")
    yes, no = words.get("true_token_id"), words.get("false_token_id")
    if not isinstance(yes, int) or not isinstance(no, int):
        raise UserError(f"model: {folder / paths[1] / 'config.json'} names no tokens for yes and no; copy it again from the run")
    activation = str(read_json(folder / SETTINGS).get("activation_fn") or SIGMOID)
    if not activation.startswith("torch.nn.modules."):
        raise UserError(f"model: {folder / SETTINGS} names the activation {activation}, and vLLM loads only those of torch.nn")
    tokenizer = open_tokenizer(folder, pads=True)
    if "document" not in str(tokenizer.chat_template or ""):
        raise UserError(f"model: the chat template of {folder} writes no pair of query and document; finetune the model with r0")
    return YesNo(yes, no, activation, tokenizer)
