"""Decodes token ids without losing any, and counts the tokens within a span of the text.

There are two implementations. *Byte-level* vocabularies (GPT-2's alphabet: Qwen, Llama 3, DeepSeek, r0-tiny) use a table of the
bytes of each id: decoding is a join, counting a cumulative sum. All other tokenizers use their own ``decode``. The choice is
made by test: the table must reproduce the tokenizer's text of the whole vocabulary.

An id unknown to the tokenizer (embeddings are often padded beyond the vocabulary, so such ids can be sampled) decodes to
U+FFFD. It stays visible and can never complete a tag or an answer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

UNKNOWN = "\ufffd"
_UNKNOWN_BYTES = UNKNOWN.encode()


class Spans(Protocol):
    """Decodes ids and counts tokens in spans. A token that lies only partly within a span belongs to the text outside."""

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode the ids, keeping special tokens, without cleaning up spaces."""

    def count(self, token_ids: Sequence[int], text: str, start: int, end: int) -> int:
        """The number of ``token_ids`` that lie entirely in ``text[start:end]`` (characters), where ``text`` is the decoded ids.

        ``start`` follows a ``>`` and ``end`` precedes a ``<``; either may be negative, meaning before the text.
        """


def spans_of(tokenizer: Any) -> Spans:
    """The fastest implementation that fits ``tokenizer`` (a transformers tokenizer)."""
    table = byte_table(tokenizer.get_vocab())
    ids = [token_id for token_id, piece in enumerate(table) if piece is not None]
    if _decode(tokenizer, ids) == b"".join(table[i] or b"" for i in ids).decode("utf-8", "replace"):
        return ByteSpans(table)
    return DecodedSpans(tokenizer)


def byte_table(vocabulary: dict[str, int]) -> list[bytes | None]:
    """The bytes of each id, decoded by GPT-2's alphabet; None for ids without a token."""
    alphabet = {char: byte for byte, char in enumerate(_alphabet())}
    table: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    for token, token_id in vocabulary.items():
        try:
            table[token_id] = bytes([alphabet[char] for char in token])
        except KeyError:  # an added token with characters outside the alphabet is literal text
            table[token_id] = token.encode("utf-8", "replace")
    return table


def _alphabet() -> str:
    """The character for each byte 0…255 (Radford et al., 2019): printable bytes map to themselves, others to 256 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(0x100))


class ByteSpans:
    """Spans of byte-level vocabularies: ``table[id]`` holds the bytes of an id.

    Vectorized with numpy. Dimensions: T sampled tokens, V ids, B bytes of text.
    """

    def __init__(self, table: Sequence[bytes | None]):
        # The last row of the table serves all ids that the vocabulary lacks.
        pieces = [_UNKNOWN_BYTES if piece is None else piece for piece in table] + [_UNKNOWN_BYTES]
        self._last = len(pieces) - 1
        self._lengths_V = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self._starts_V = np.cumsum(self._lengths_V) - self._lengths_V
        self._buffer = np.frombuffer(b"".join(pieces), dtype=np.uint8)

    def text(self, token_ids: Sequence[int]) -> str:
        """See ``Spans.text``."""
        return self._bytes(token_ids).decode("utf-8", "replace")

    def count(self, token_ids: Sequence[int], text: str, start: int, end: int) -> int:
        """See ``Spans.count``. Exact even if the ids hold invalid UTF-8."""
        marks = np.zeros(len(token_ids) + 1, dtype=np.int64)  # token i lies at byte marks[i] to marks[i + 1]
        np.cumsum(self._lengths_V[self._rows(token_ids)], out=marks[1:])
        size = int(marks[-1])
        if text.isascii() and size == len(text):
            return _inside(marks, start, end)
        # Decoding replaces each invalid sequence of 1 to 3 bytes by 3 bytes, so equal lengths mean equal offsets.
        if size != _utf8(text):
            raw = self._bytes(token_ids)
            if raw.decode("utf-8", "replace") == text:
                return _inside(marks, _after(raw, text, start), _before(raw, text, end))
            # Otherwise the text does not belong to the ids; fall through to an estimate in linear time.
        return _inside(marks, _utf8(text[:start]) if start > 0 else start, _utf8(text[:end]) if end > 0 else end)

    def _rows(self, token_ids: Sequence[int]) -> np.ndarray:
        """The table rows of the ids [T]."""
        try:
            ids_T = np.fromiter(token_ids, dtype=np.int64, count=len(token_ids))
        except OverflowError:
            ids_T = np.array([token_id if 0 <= token_id < self._last else self._last for token_id in token_ids], dtype=np.int64)
        # As unsigned integers negative ids are huge, so one comparison finds both kinds of unknown ids.
        return np.minimum(ids_T.view(np.uint64), np.uint64(self._last)).view(np.int64)

    def _bytes(self, token_ids: Sequence[int]) -> bytes:
        """The bytes [B] of all tokens, gathered at once: byte b comes from table offset b + (token start in the table − token
        start here).
        """
        rows_T = self._rows(token_ids)
        lengths_T = self._lengths_V[rows_T]
        ends_T = np.cumsum(lengths_T)
        shift_B = np.repeat(self._starts_V[rows_T] - ends_T + lengths_T, lengths_T)
        shift_B += np.arange(len(shift_B))
        return self._buffer[shift_B].tobytes()


class DecodedSpans:
    """Spans of any tokenizer, through its own ``decode``."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._known = frozenset(tokenizer.get_vocab().values())
        self._pieces = _Pieces(self.text, self._known)

    def text(self, token_ids: Sequence[int]) -> str:
        """See ``Spans.text``."""
        if self._known.issuperset(token_ids):
            return _decode(self._tokenizer, list(token_ids))
        parts: list[str] = []
        run: list[int] = []
        for token_id in token_ids:
            if token_id in self._known:
                run.append(token_id)
                continue
            parts += [_decode(self._tokenizer, run), UNKNOWN]
            run = []
        return "".join([*parts, _decode(self._tokenizer, run)])

    def count(self, token_ids: Sequence[int], text: str, start: int, end: int) -> int:
        """See ``Spans.count``. Linear if each id decodes the same after any other; else a bisection over decoded prefixes."""
        pieces = [self._pieces[token_id] for token_id in token_ids]
        if token_ids:
            pieces[0] = self.text(token_ids[:1])  # many tokenizers drop the space before the first word
        if "".join(pieces) == text:
            return _inside(list(accumulate(map(len, pieces), initial=0)), start, end)
        return count_by_prefixes(self.text, token_ids, start, end)


class _Pieces(dict[int, str]):
    """The text that each id adds after other text, computed on first use."""

    def __init__(self, text: Callable[[Sequence[int]], str], known: Iterable[int]):
        super().__init__()
        self._text = text
        # Decode after an alphanumeric token: without surrounding white space it is not changed by the token that follows.
        self._before = next(([i] for i in sorted(known) if text([i]).isalnum()), [])
        self._before_text = text(self._before)

    def __missing__(self, token_id: int) -> str:
        both = self._text([*self._before, token_id])
        piece = both.removeprefix(self._before_text) if both.startswith(self._before_text) else self._text([token_id])
        self[token_id] = piece
        return piece


def count_by_prefixes(text_of: Callable[[Sequence[int]], str], token_ids: Sequence[int], start: int, end: int) -> int:
    """``Spans.count`` for any ``text_of``, by bisection over the lengths of decoded prefixes (log₂ n decodings).

    Trailing U+FFFD of a prefix are not counted, because the next token may complete the character; so lengths are
    non-decreasing.
    """

    def mark(length: int) -> int:
        return len(text_of(token_ids[:length]).rstrip(UNKNOWN)) if length else 0

    return _inside(range(len(token_ids) + 1), start, end, mark)


def _inside(marks: Sequence[int] | np.ndarray, start: int, end: int, key: Callable[[int], int] | None = None) -> int:
    """The number of intervals ``marks[i]``…``marks[i + 1]`` within ``start``…``end``; ``marks`` is non-decreasing."""
    if isinstance(marks, np.ndarray):
        first, last = int(np.searchsorted(marks, start, "left")), int(np.searchsorted(marks, end, "right"))
    else:
        first, last = bisect_left(marks, start, key=key), bisect_right(marks, end, key=key)
    return max(0, last - 1 - first)


def _after(raw: bytes, text: str, offset: int) -> int:
    """The offset in ``raw`` where ``text[:offset]``, which ends with ``>``, ends; ``text = raw.decode("utf-8", "replace")``.

    Invalid bytes never consume an ASCII character, so the ASCII characters of both correspond one to one, in order.
    """
    return len(raw) - len(raw.split(b">", text.count(">", 0, offset))[-1]) if offset > 0 else offset


def _before(raw: bytes, text: str, offset: int) -> int:
    """The offset in ``raw`` of ``text[offset]``, which is ``<``; otherwise as ``_after``."""
    return len(raw) - len(raw.split(b"<", text.count("<", 0, offset) + 1)[-1]) - 1 if offset >= 0 else offset


def _utf8(text: str) -> int:
    """The number of bytes of ``text`` in UTF-8 (lone surrogates count 3)."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _decode(tokenizer: Any, token_ids: list[int]) -> str:
    if not token_ids:
        return ""
    return tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
