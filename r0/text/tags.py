"""Escapes literal tags in data.

r0's markup consists of ``<think>``, ``<answer>``, ``<query>``, ``<document>`` and their closing tags. Chat templates mark turns
with ``<|…|>`` (or ``<｜…｜>``) and with the texts of a tokenizer's added tokens. If a query, a document or a thought spells one
of these, in any case and with any white space after ``<`` or ``</``, its ``<`` is replaced by ``‹`` (U+2039). Nothing else
changes: ``a < b``, ``<p>`` and ``<thinking>`` stay, and the text keeps its length in characters. A tag in data remains readable
for people and models but is never a real tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

TAG_NAMES = ("think", "answer", "query", "document", "documents")
ESCAPED_LESS_THAN = "‹"


def tag_pattern(added_texts: Iterable[str] = ()) -> re.Pattern[str]:
    """A pattern that matches the ``<`` of everything that could be mistaken for markup.

    Args:
        added_texts: texts of a tokenizer's added tokens; those that begin with ``<`` count as markup too.
    """
    added = sorted({re.escape(text[1:]) for text in added_texts if text[:1] == "<" and text[1:2] not in ("", "|", "｜")})
    # Possessive quantifiers: a long run of white space after "<" is scanned only once.
    forms = [rf"\s*+(?:/\s*+)?(?:{'|'.join(TAG_NAMES)})(?!\w)", "[|｜]", *added]
    return re.compile(f"<(?={'|'.join(forms)})", re.IGNORECASE)


_OWN_TAGS = tag_pattern()


def escape_tags(text: str, pattern: re.Pattern[str] = _OWN_TAGS) -> str:
    """``text`` with every ``<`` matched by ``pattern`` replaced by ``‹``."""
    return pattern.sub(ESCAPED_LESS_THAN, text) if "<" in text else text


_OPENING = re.compile(r"<\s*think\s*>", re.IGNORECASE)
_CLOSING = re.compile(r"<\s*/\s*think\s*>\s*(?:<\s*answer\s*>[^<]{0,1024}<\s*/\s*answer\s*>\s*)?", re.IGNORECASE)


def strip_thought_tags(text: str) -> str:
    """A thought without the markup around it.

    Removes surrounding white space, a leading ``<think>``, a trailing ``</think>``, and an ``<answer>…</answer>`` after it (of
    at most 1,024 characters). Tags inside the thought are escaped, so that none can end the thought early in a training
    completion.
    """
    text = text.strip()
    opening = _OPENING.match(text)
    if opening:
        text = text[opening.end() :]
    tail = max(0, len(text) - 1200)  # the closing tag and what may follow it are short
    for closing in _CLOSING.finditer(text, tail):
        if closing.end() == len(text):
            text = text[: closing.start()]
            break
    return escape_tags(text.strip())


def control_token_texts(tokenizer: Any) -> list[str]:
    """The texts of control tokens, longest first: special tokens, and tags of r0 or of a chat template that are single tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    texts = {token.content for token in added if token.special or escape_tags(token.content) != token.content}
    return sorted(texts | set(getattr(tokenizer, "all_special_tokens", ())), key=len, reverse=True)


def escape_control_tokens(text: str, control: Sequence[str]) -> str:
    """``text`` in which none of the texts ``control`` occurs: ``<`` becomes ``‹``, and tokens that begin otherwise get a space
    (``[ SEP]``).

    For libraries that tokenize text themselves; where r0 makes the token ids, ``r0.text.plain_text`` applies.
    """
    for token in control:
        if token in text:
            text = text.replace(token, ESCAPED_LESS_THAN + token[1:] if token[0] == "<" else f"{token[0]} {token[1:]}")
    return text
