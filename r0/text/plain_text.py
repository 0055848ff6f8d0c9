"""Encodes data as token ids, none of which belongs to the tokenizer's added vocabulary, whatever the text.

``split_special_tokens`` is not sufficient: it covers special tokens only, while ``<think>`` is an ordinary added token in many
vocabularies. So the tokenizer is rebuilt from its JSON without added tokens. An added id can still appear if its text or its id
is also part of the model's own vocabulary (Unigram pieces such as ``</s>``, an unknown-word token). Such a piece is encoded
character by character; what still gives an added id becomes ``?``, or is dropped if the vocabulary has no ``?``. If the
remaining text would spell a tag, every piece that contains ``<`` is dropped.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from r0.errors import UserError
from r0.text.tags import ESCAPED_LESS_THAN, escape_tags, tag_pattern


class Pieces(NamedTuple):
    """Token ids, and the (start, end) character offsets of each in the encoded text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class PlainText:
    """Encodes text without the added vocabulary of ``tokenizer``.

    Args:
        tokenizer: a transformers tokenizer with a ``tokenizer.json`` (a fast one).
        lead: whether to keep the white space that some tokenizers insert before a text (Metaspace, Prepend).

    Raises:
        UserError: the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any, lead: bool = True):
        backend = backend_of(tokenizer)
        self.added_ids = added_ids(tokenizer)
        added_texts = {token.content for token in backend.get_added_tokens_decoder().values()} | set(tokenizer.all_special_tokens)
        self._pattern = tag_pattern(added_texts)
        self._own = json.loads(backend.to_str())
        self._plain = Tokenizer.from_str(json.dumps(_stripped(self._own, lead) | {"added_tokens": []}))
        self._letters = Tokenizer.from_str(json.dumps(_stripped(self._own, False) | {"added_tokens": []}))
        self._question = [one for one in self._letter("?") if one not in self.added_ids]
        unknown = self._own["model"].get("unk_token")
        self._unknown = self._plain.token_to_id(unknown) if unknown else self._own["model"].get("unk_id")

    def normalize(self, text: str) -> str:
        """The text after the tokenizer's normalizer, the step before tokenization."""
        normalizer = self._plain.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def escape_tags(self, text: str) -> str:
        """``text`` in which no tag is spelled, before and after the tokenizer's normalization (rule: ``r0.text.tags``)."""
        safe = escape_tags(text, self._pattern)
        if not self._pattern.search(self.normalize(safe)):
            return safe
        # Normalization creates a tag (full-width "＜think>", an invisible character, an accent): escape every character that
        # becomes "<".
        made = {letter for letter in set(safe) if "<" in self.normalize(letter)}
        return "".join(ESCAPED_LESS_THAN if letter in made else letter for letter in safe)

    def clean(self, text: str) -> str:
        """Apply ``escape_tags``; if the text still spells a tag after encoding, also remove every ``<``."""
        safe = self.escape_tags(text)
        return safe.replace("<", "") if self._spells_tag(safe, self.pieces_with_tags(safe).ids if "<" in safe else []) else safe

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that went through ``escape_tags``."""
        ids = self._plain.encode(text, add_special_tokens=False).ids
        return ids if "<" not in text and self.added_ids.isdisjoint(ids) else self.pieces(text).ids

    def pieces(self, text: str) -> Pieces:
        """Token ids with their character offsets."""
        pieces = self.pieces_with_tags(text)
        if self._spells_tag(text, pieces.ids):
            kept = [index for index, (start, end) in enumerate(pieces.offsets) if "<" not in text[start:end]]
            return Pieces([pieces.ids[index] for index in kept], [pieces.offsets[index] for index in kept])
        return pieces

    def pieces_with_tags(self, text: str) -> Pieces:
        """As ``pieces``, but r0's own words in the text may spell tags, such as ``<Query>:``; data in it must be ``clean``."""
        encoded = self._plain.encode(text, add_special_tokens=False)
        pieces = Pieces(encoded.ids, encoded.offsets)
        return pieces if self.added_ids.isdisjoint(pieces.ids) else self._without_added(text, pieces)

    def _spells_tag(self, text: str, ids: list[int]) -> bool:
        return "<" in text and bool(self._pattern.search(self._plain.decode(ids, skip_special_tokens=False)))

    def _without_added(self, text: str, pieces: Pieces) -> Pieces:
        kept = Pieces([], [])
        for token_id, (start, end) in zip(*pieces, strict=True):
            if token_id not in self.added_ids:
                found = [(token_id, (start, end))]
            elif token_id == self._unknown:
                found = [(one, (start, end)) for one in self._question]
            else:
                spelled = ((place, self._letter(text[place])) for place in range(start, end))
                found = [(one, (place, place + 1)) for place, ids in spelled for one in self._clean(ids)]
            kept.ids.extend(one for one, _ in found)
            kept.offsets.extend(span for _, span in found)
        return kept

    def _clean(self, ids: list[int]) -> list[int]:
        return ids if self.added_ids.isdisjoint(ids) else self._question

    def _letter(self, letter: str) -> list[int]:
        return self._letters.encode(letter, add_special_tokens=False).ids


def backend_of(tokenizer: Any) -> Tokenizer:
    """The ``tokenizers.Tokenizer`` inside a transformers tokenizer.

    Raises:
        UserError: the tokenizer has none.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None) or getattr(tokenizer, "_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        name = type(tokenizer).__name__
        raise UserError(f"model: the tokenizer {name} has no tokenizer.json; convert it to a fast tokenizer and save it first")
    return backend


def added_ids(tokenizer: Any) -> frozenset[int]:
    """All ids of the added vocabulary, special or not."""
    known = set(backend_of(tokenizer).get_added_tokens_decoder()) | set(tokenizer.get_added_vocab().values())
    return frozenset(known | set(tokenizer.all_special_ids))


def without_lead(tokenizer: Any) -> Tokenizer:
    """A copy of the tokenizer, including its added vocabulary, that inserts no white space before a text."""
    return Tokenizer.from_str(json.dumps(_stripped(json.loads(backend_of(tokenizer).to_str()), False)))


def _stripped(own: dict[str, Any], lead: bool) -> dict[str, Any]:
    """A tokenizer's JSON without truncation, padding and post-processing, and without inserted leading white space unless
    ``lead``.
    """
    bare = own | {"truncation": None, "padding": None, "post_processor": None}
    if not lead:
        bare["normalizer"] = _no_lead(bare["normalizer"])
        bare["pre_tokenizer"] = _no_lead(bare["pre_tokenizer"])
    return bare


def _no_lead(step: dict[str, Any] | None) -> dict[str, Any] | None:
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        name = "normalizers" if "normalizers" in step else "pretokenizers"
        return step | {name: [inner for inner in map(_no_lead, step[name]) if inner is not None]}
    if step["type"] == "Metaspace":
        return step | {"prepend_scheme": "never"}
    return step | {"add_prefix_space": False} if "add_prefix_space" in step else step
