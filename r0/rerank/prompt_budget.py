"""How many tokens a prompt may have, and whether a model can judge documents at all; no weights are loaded."""

from __future__ import annotations

from pathlib import Path

from r0.actors.rollout.settings import positions
from r0.config import RankingKeys
from r0.errors import UserError
from r0.rerank.cross_encoder import is_cross_encoder
from r0.rerank.pair_format import PairFormat
from r0.text.answer_position import ANSWER_ROOM

DEFAULT_PROMPT_TOKENS = 8192
SMALLEST_PROMPT = 64  # tokens; with less no document is worth showing


def check_model(keys: RankingKeys, folder: Path) -> None:
    """Refuse a model that cannot judge documents as the configuration has it; late interaction has a check of its own.

    Raises:
        UserError: it can only judge in another way, or not at all; it has too few positions.
    """
    if not is_cross_encoder(folder, keys):
        prompt_budget(keys, folder)


def prompt_budget(keys: RankingKeys, folder: Path) -> int:
    """Tokens of a prompt, at most: as configured, else what fits the model.

    Raises:
        UserError: prompt and completion together have more tokens than the model has positions.
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
            f"max_prompt_tokens={keys.max_prompt_tokens} and max_new_tokens={keys.max_new_tokens} are more than the {most} "
            f"positions of {folder.name}, of which {ANSWER_ROOM} are kept; lower max_prompt_tokens to at most {room}"
        )
    return keys.max_prompt_tokens


def new_tokens(keys: RankingKeys) -> int:
    """Tokens that follow a prompt, at most: one where a pair's format ends with the answer's."""
    return 1 if PairFormat.of(keys) else keys.max_new_tokens + ANSWER_ROOM
