"""A model's tokenizer, opened and compared with the model's embedding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from r0.errors import UserError, reason
from r0.storage.model_checks import read_json
from r0.text.completion import ANSWER, THINK


def open_tokenizer(folder: Path, pads: bool = False) -> Any:
    """The tokenizer of the model in ``folder``.

    Args:
        folder: of the model.
        pads: whether the model is given padding.

    Raises:
        UserError: there is none, it is damaged, or the model's embedding has no row for an id that prompts contain.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises plain Exceptions
        raise UserError(
            f"model: the tokenizer of {folder} cannot be loaded ({reason(error)}); copy the tokenizer files of the model it was "
            "made from"
        ) from error
    check_ids(tokenizer, folder, pads)
    return tokenizer


def check_ids(tokenizer: Any, folder: Path, pads: bool = False) -> None:
    """Refuse a tokenizer whose prompts contain ids beyond the model's embedding.

    Ids that no prompt contains do not matter: some models name tokens of images that they have no embedding for.

    Raises:
        UserError: with the token, its id and the remedy.
    """
    config = read_json(folder / "config.json")
    rows = (config.get("text_config") or config).get("vocab_size") or config.get("vocab_size")
    beyond = max((one for one in _used_ids(tokenizer, pads) if one is not None), default=0)
    if isinstance(rows, int) and beyond >= rows:
        token = tokenizer.convert_ids_to_tokens(beyond)
        raise UserError(
            f"model: prompts contain {token!r}, which is id {beyond} of the tokenizer, and the embedding of {folder} has {rows} "
            "rows; give the tokenizer that belongs to the model, or resize the embedding"
        )


def _used_ids(tokenizer: Any, pads: bool) -> Iterator[int | None]:
    yield tokenizer.eos_token_id
    yield tokenizer.pad_token_id if pads else None
    yield from tokenizer.encode("a", "b")  # with the tokens around a text, and between two
    yield from tokenizer.encode("".join((*THINK, *ANSWER)), add_special_tokens=False)
    for message in ([], [{"role": "system", "content": "a"}]):
        yield from _rendered(tokenizer, [*message, {"role": "user", "content": "a"}])
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        yield max(backend.get_vocab(with_added_tokens=False).values(), default=0)


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """The ids of a prompt by the chat template; empty if there is none, or it fails (``r0.text.template`` says so)."""
    if not tokenizer.chat_template:
        return []
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError, KeyError):
        return []
    return tokenizer.encode(text, add_special_tokens=False)
