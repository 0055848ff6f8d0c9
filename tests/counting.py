"""A tokenizer that counts its work."""

from __future__ import annotations

from typing import Any


class CountingTokenizer:
    """A ``tokenizers.Tokenizer`` that counts calls of ``encode`` and the characters passed to it."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.calls = self.characters = 0

    def encode(self, text: str, **options: Any) -> Any:
        self.calls += 1
        self.characters += len(text)
        return self._tokenizer.encode(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
