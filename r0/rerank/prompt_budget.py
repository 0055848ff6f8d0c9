"""The maximum prompt length, and whether a model can score documents; loads no weights."""

from __future__ import annotations

from pathlib import Path

from r0.actors.rollout.settings import positions
from r0.config import RankingKeys
from r0.errors import UserError, reason
from r0.rerank.cross_encoder import is_cross_encoder
from r0.rerank.pair_format import PairFormat
from r0.text.answer_position import ANSWER_PREFIX_TOKENS
from r0.text.prompt_file import template_variables
from r0.text.template import Template

DEFAULT_PROMPT_TOKENS = 8192
SMALLEST_PROMPT = 64  # tokens; less leaves no useful room for a document


def check_model(keys: RankingKeys, folder: Path) -> None:
    """Refuse a model that cannot score documents as configured; late interaction has its own check.

    Raises:
        UserError: the model can only score in another way, or not at all; or it has too few positions.
    """
    if not is_cross_encoder(folder, keys):
        prompt_budget(keys, folder)
        if keys.chat_template_kwargs:
            open_template(keys, folder)
    elif keys.chat_template_kwargs:
        raise UserError(f"chat_template_kwargs: {folder.name} is used as a cross-encoder, without a chat template; remove it")


def open_template(keys: RankingKeys, folder: Path) -> Template:
    """The model's chat template, as the workers use it.

    Raises:
        UserError: tokenizer or template cannot be used.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"model: the tokenizer of {folder} cannot be loaded: {reason(error)}") from error
    return Template(tokenizer, keys.system_prompt, template_variables(folder, keys.chat_template_kwargs))


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
