"""The rule for literal tags in text that is data.

r0's own markup is ``<think>``, ``<answer>``, ``<query>``, ``<document>`` and their closings; chat templates mark turns with
``<|…|>`` (or ``<｜…｜>``) and with the texts of a tokenizer's added tokens. Where a query, a document or a thought spells one of
these, whatever the case and whatever white space stands behind the ``<`` or ``</``, its ``<`` is written ``‹`` (U+2039).
Nothing else changes: ``a < b``, ``<p>`` and ``<thinking>`` stay as they are, and the text keeps its length in characters. So a
tag in data stays readable for people and models, and is never a tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

TAG_NAMES = ("think", "answer", "query", "document", "documents")
DEFUSED = "‹"


def tag_pattern(added_texts: Iterable[str] = ()) -> re.Pattern[str]:
    """A pattern that matches the ``<`` of everything that could be taken for markup.

    Args:
        added_texts: texts of a tokenizer's added tokens; those that begin with ``<`` count as markup too.
    """
    added = sorted({re.escape(text[1:]) for text in added_texts if text[:1] == "<" and text[1:2] not in ("", "|", "｜")})
    # Possessive repeats: a long run of white space after "<" is looked at once.
    forms = [rf"\s*+(?:/\s*+)?(?:{'|'.join(TAG_NAMES)})(?!\w)", "[|｜]", *added]
    return re.compile(f"<(?={'|'.join(forms)})", re.IGNORECASE)


_OWN_TAGS = tag_pattern()


def defuse(text: str, pattern: re.Pattern[str] = _OWN_TAGS) -> str:
    """``text`` with every ``<`` that ``pattern`` finds written ``‹``."""
    return pattern.sub(DEFUSED, text) if "<" in text else text


_OPENING = re.compile(r"<\s*think\s*>", re.IGNORECASE)
_CLOSING = re.compile(r"<\s*/\s*think\s*>\s*(?:<\s*answer\s*>[^<]{0,1024}<\s*/\s*answer\s*>\s*)?", re.IGNORECASE)


def bare_thought(text: str) -> str:
    """A thought without the markup around it.

    Surrounding white space goes, a leading ``<think>``, a trailing ``</think>`` and an ``<answer>…</answer>`` behind that (of at
    most 1,024 characters); tags within the thought are defused (the module's rule), so that none can end a thought early in a
    training completion.
    """
    text = text.strip()
    opening = _OPENING.match(text)
    if opening:
        text = text[opening.end() :]
    tail = max(0, len(text) - 1200)  # what may follow the closing tag is short
    for closing in _CLOSING.finditer(text, tail):
        if closing.end() == len(text):
            text = text[: closing.start()]
            break
    return defuse(text.strip())


def control_texts(tokenizer: Any) -> list[str]:
    """Control tokens' texts, the longest first: special ones, and tags of r0 or of a chat template that are one token each."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    texts = {token.content for token in added if token.special or defuse(token.content) != token.content}
    return sorted(texts | set(getattr(tokenizer, "all_special_tokens", ())), key=len, reverse=True)


def without_control(text: str, control: Sequence[str]) -> str:
    """``text`` that spells none of the texts ``control``: the module's rule, and ``[ SEP]`` for those that begin otherwise.

    For libraries that tokenize by themselves; where r0 makes the token ids, ``r0.text.plain_text`` is the rule.
    """
    for token in control:
        if token in text:
            text = text.replace(token, DEFUSED + token[1:] if token[0] == "<" else f"{token[0]} {token[1:]}")
    return text
