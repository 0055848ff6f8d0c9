"""The text of a pair for a decoder: ``query_format``, ``seq``, ``document_format`` and ``special_token``, in this order.

The names are RAG-Retrieval's. For vLLM a pair is converted to token ids (``r0.rerank.pair_prompts``). sentence-transformers
passes a pair to a chat template, as messages with the roles ``query`` and ``document``; for it the format becomes such a
template.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol, Self

from r0.errors import UserError


class FormatKeys(Protocol):
    """The configuration keys of the format; None if not given."""

    @property
    def query_format(self) -> str | None:
        """Text around the query, with ``{}`` in its place."""

    @property
    def document_format(self) -> str | None:
        """Text around the document, with ``{}`` in its place."""

    @property
    def seq(self) -> str | None:
        """Text between the two."""

    @property
    def special_token(self) -> str | None:
        """Text after the document."""


@dataclass(frozen=True, slots=True)
class PairFormat:
    """The text around a query and its document."""

    before: str  # before the query
    between: str
    behind: str  # after the document

    @classmethod
    def of(cls, keys: FormatKeys) -> Self | None:
        """The format in a configuration; None if none of the four keys is given.

        Defaults of missing keys: ``query: {}``, ``document: {}``, a space, and nothing.

        Raises:
            UserError: a format does not contain ``{}`` exactly once.
        """
        if keys.query_format is keys.document_format is keys.seq is keys.special_token is None:
            return None
        halves = []
        for name, usual in (("query_format", "query: {}"), ("document_format", "document: {}")):
            text = getattr(keys, name)
            parts = (usual if text is None else text).split("{}")
            if len(parts) != 2:
                raise UserError(f"{name}: {text!r} must contain {{}} exactly once, for the text")
            halves.append(parts)
        (before, behind_query), (before_document, behind_document) = halves
        seq = " " if keys.seq is None else keys.seq
        return cls(before, f"{behind_query}{seq}{before_document}", f"{behind_document}{keys.special_token or ''}")

    def text(self, query: str, document: str) -> str:
        """The text of a pair."""
        return f"{self.before}{query}{self.between}{document}{self.behind}"

    def chat_template(self, tokenizer: Any) -> str:
        """The format as a Jinja chat template over the messages ``query`` and ``document``.

        It includes the token that the tokenizer puts before a text, because tokenizers add none after a chat template.
        """
        query, document = (
            f"{{{{ messages | selectattr('role', 'eq', '{role}') | map(attribute='content') | first }}}}"
            for role in ("query", "document")
        )
        texts = (begin(tokenizer) + self.before, self.between, self.behind)
        before, between, behind = (f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else "" for text in texts)
        return f"{before}{query}{between}{document}{behind}"


def begin(tokenizer: Any) -> str:
    """The token that the tokenizer puts before a text; empty if there is none."""
    bos = tokenizer.bos_token
    return bos if bos and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else ""
