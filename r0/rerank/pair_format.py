"""How a decoder reads a pair as one text: ``query_format``, ``seq``, ``document_format`` and ``special_token`` in this order.

The names are RAG-Retrieval's. For vLLM such a pair is written as token ids (``r0.rerank.pair_prompts``). sentence-transformers
hands a pair to a chat template, as messages of the roles ``query`` and ``document``; so for it the format is written as one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol, Self

from r0.errors import UserError


class FormatKeys(Protocol):
    """What a configuration says about the format; None where it says nothing."""

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
        """Text behind the document."""


@dataclass(frozen=True, slots=True)
class PairFormat:
    """The text around a query and its document."""

    before: str  # the query
    between: str
    behind: str  # the document

    @classmethod
    def of(cls, keys: FormatKeys) -> Self | None:
        """The format that a configuration gives; None where none of the four keys is given.

        The keys that are not given are ``query: {}``, ``document: {}``, a space, and nothing.

        Raises:
            UserError: ``{}`` is not once in each format.
        """
        if keys.query_format is keys.document_format is keys.seq is keys.special_token is None:
            return None
        halves = []
        for name, usual in (("query_format", "query: {}"), ("document_format", "document: {}")):
            text = getattr(keys, name)
            parts = (usual if text is None else text).split("{}")
            if len(parts) != 2:
                raise UserError(f"{name}: {text!r} must have {{}} once, where the text goes")
            halves.append(parts)
        (before, behind_query), (before_document, behind_document) = halves
        seq = " " if keys.seq is None else keys.seq
        return cls(before, f"{behind_query}{seq}{before_document}", f"{behind_document}{keys.special_token or ''}")

    def text(self, query: str, document: str) -> str:
        """A pair as the model reads it."""
        return f"{self.before}{query}{self.between}{document}{self.behind}"

    def chat_template(self, tokenizer: Any) -> str:
        """The format as a Jinja template over the messages ``query`` and ``document``.

        The token that the tokenizer puts before a text is written too: behind a chat template it puts none.
        """
        query, document = (
            f"{{{{ messages | selectattr('role', 'eq', '{role}') | map(attribute='content') | first }}}}"
            for role in ("query", "document")
        )
        texts = (begin(tokenizer) + self.before, self.between, self.behind)
        before, between, behind = (f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else "" for text in texts)
        return f"{before}{query}{between}{document}{behind}"


def begin(tokenizer: Any) -> str:
    """The token that the tokenizer puts before a text; empty where it puts none."""
    bos = tokenizer.bos_token
    return bos if bos and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else ""
