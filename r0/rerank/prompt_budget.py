"""The maximum prompt length, and whether a model can score documents; loads no weights."""

from __future__ import annotations

from pathlib import Path

from r0.actors.rollout.settings import stop_ids
from r0.config import RankingKeys
from r0.errors import UserError
from r0.rerank.cross_encoder import is_cross_encoder
from r0.rerank.late_interaction import is_late_interaction
from r0.rerank.pair_format import PairFormat
from r0.storage.loading import check_loads, model_class
from r0.storage.model_checks import quantization
from r0.storage.positions import positions
from r0.text.answer_position import ANSWER_PREFIX_TOKENS
from r0.text.prompt_file import template_variables
from r0.text.template import Template
from r0.text.tokenizer import open_tokenizer

DEFAULT_PROMPT_TOKENS = 8192
SMALLEST_PROMPT = 64  # tokens; less leaves no useful room for a document


def check_model(keys: RankingKeys, folder: Path) -> None:
    """Refuse a model that cannot score documents as configured; reads no weights.

    Raises:
        UserError: the model can only score in another way, or not at all; it has too few positions; its files lack weights; or
            its tokenizer does not fit it.
    """
    vectors = is_late_interaction(folder, keys)
    if vectors or is_cross_encoder(folder, keys):
        if keys.chat_template_kwargs and not vectors:
            raise UserError(f"chat_template_kwargs: {folder.name} is used as a cross-encoder, without a chat template; remove it")
        check_encoder(folder, body=vectors)
        return
    prompt_budget(keys, folder)
    if keys.chat_template_kwargs:
        open_template(keys, folder)
    else:
        open_tokenizer(folder)
    if not PairFormat.of(keys):
        stop_ids(folder)
    if keys.rollout.engine == "hf" or not quantization(folder):  # vLLM loads more kinds of quantized weights
        check_known(folder)


def check_encoder(folder: Path, body: bool = False) -> None:
    """Refuse an encoder whose files lack weights or whose tokenizer does not fit it.

    Args:
        folder: of the model.
        body: whether only the body is wanted, as where sentence-transformers adds what makes vectors.

    Raises:
        UserError: with what is wrong and the remedy.
    """
    open_tokenizer(folder, pads=True)
    check_known(folder, body)


def check_known(folder: Path, body: bool = False) -> None:
    """Refuse a model of a class of transformers whose files lack weights of it.

    Raises:
        UserError: with the weights and the remedy.
    """
    if (kind := model_class(folder)) is not None:
        check_loads(kind, folder, body=body)


def open_template(keys: RankingKeys, folder: Path) -> Template:
    """The model's chat template, as the workers use it.

    Raises:
        UserError: tokenizer or template cannot be used.
    """
    return Template(open_tokenizer(folder), keys.system_prompt, template_variables(folder, keys.chat_template_kwargs))


def prompt_budget(keys: RankingKeys, folder: Path) -> int:
    """The maximum prompt length in tokens: the configured one, or what fits the model.

    Raises:
        UserError: prompt and completion together exceed the model's positions.
    """
    most = positions(folder)
    room = DEFAULT_PROMPT_TOKENS if most is None else most - new_tokens(keys)
    if room < SMALLEST_PROMPT:
        raise UserError(
            f"max_new_tokens={keys.max_new_tokens} leaves no room for a prompt in the {most} positions of {folder.name}; lower it"
        )
    if keys.max_prompt_tokens is None:
        return min(DEFAULT_PROMPT_TOKENS, room)
    if most is not None and keys.max_prompt_tokens > room:
        if PairFormat.of(keys):
            raise UserError(
                f"max_prompt_tokens: {keys.max_prompt_tokens} and the answer's token are more than the {most} positions of "
                f"{folder.name}; use max_prompt_tokens={room}"
            )
        raise UserError(
            f"max_prompt_tokens={keys.max_prompt_tokens} and max_new_tokens={keys.max_new_tokens} exceed the {most} positions "
            f"of {folder.name}, of which {ANSWER_PREFIX_TOKENS} are reserved; lower max_prompt_tokens to at most {room}"
        )
    return keys.max_prompt_tokens


def new_tokens(keys: RankingKeys) -> int:
    """The maximum number of tokens after a prompt; 1 with a pair format, whose next token is the answer."""
    return 1 if PairFormat.of(keys) else keys.max_new_tokens + ANSWER_PREFIX_TOKENS
