"""Pairs in a custom format (``r0.rerank.pair_format``) as token ids, with the position of the answer.

* The ids are those that the tokenizer gives to the whole text. The text between two control tokens of the format is tokenized
  as a whole, including query or document. Control tokens of the format are real ones; those spelled in a query or document
  are text (``r0.text.plain_text``; tags are escaped by ``r0.text.tags``).
* A pair that exceeds the limit loses the end of its document, but nothing of the format or of the query.
* The two answer ids are the first ones in which ``yes`` and ``no`` differ after the format.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from r0.errors import UserError
from r0.records import Answer
from r0.rerank.pair_format import PairFormat, begin
from r0.text.answer_position import AnswerPosition
from r0.text.plain_text import Pieces, PlainText, added_ids, backend_of, without_lead


class PairPrompts:
    """Builds the pairs of one model.

    Args:
        tokenizer: the model's tokenizer (a fast one).
        form: the text around query and document.
        max_prompt_tokens: maximum length of a whole pair.

    Raises:
        UserError: yes and no have the same ids, or the format alone exceeds the limit.
    """

    def __init__(self, tokenizer: Any, form: PairFormat, max_prompt_tokens: int):
        self._most = max_prompt_tokens
        before, self._between, behind = (
            _parted(tokenizer, text) for text in (begin(tokenizer) + form.before, form.between, form.behind)
        )
        # Ordinary text next to query or document is tokenized with it: ``lead`` before the query, ``rest`` after the document.
        head, self._lead = (before.first + before.control, before.last) if before.control else ("", before.first)
        self._rest, tail = behind.first, behind.control + behind.last
        self._head_ids = tokenizer.encode(head, add_special_tokens=False) if head else []
        encode = self._fit(tokenizer, tail, begin(tokenizer) + form.text("a", "b"))
        yes, no = (encode(tail + word) for word in (Answer.YES, Answer.NO))
        shared = next((place for place, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
        if shared is None:
            raise UserError(
                "model: its tokenizer encodes yes and no as the same token, so their logits are equal; use another model"
            )
        self._tail_ids, self._yes, self._no = yes[:shared], yes[shared], no[shared]
        ids, pieces, _ = self._encoded("", "")
        fixed = len(ids) + len(pieces.ids) + shared
        if fixed + 2 > max_prompt_tokens:
            raise UserError(f"max_prompt_tokens={max_prompt_tokens}: the format alone takes {fixed} tokens; raise it")

    def _fit(self, tokenizer: Any, tail: str, whole: str) -> Callable[[str], list[int]]:
        """Choose how ordinary text is encoded (``_plain``) and how the format's own text after other text is encoded (returned).

        Tokenizers differ in the white space that they insert before a text, so the variants are tried on ``whole``, the pair
        "a" and "b". If none gives the tokenizer's own ids, the one nearest in length is taken; the boundary then differs
        slightly.
        """
        wanted, ways = tokenizer.encode(whole, add_special_tokens=False), []
        for lead, own in product((True, False), (without_lead(tokenizer), backend_of(tokenizer))):
            plain, encode = PlainText(tokenizer, lead), partial(_ids, own)
            self._plain, self._between_ids = plain, encode(self._between.control)
            ids, pieces, _ = self._encoded("a", "b")
            made = [*ids, *pieces.ids, *encode(tail)]
            ways.append((made != wanted, abs(len(made) - len(wanted)), plain, self._between_ids, encode))
        *_, self._plain, self._between_ids, encode = min(ways, key=lambda way: way[:2])
        return encode

    def place(self, query: str, document: str) -> AnswerPosition:
        """The answer position of a pair; a long document is cut to fit.

        Raises:
            UserError: the query leaves no room for a document.
        """
        query, document = self._plain.clean(query), self._plain.clean(document)
        while True:
            ids, pieces, start = self._encoded(query, document)
            over = len(ids) + len(pieces.ids) + len(self._tail_ids) - self._most
            if over <= 0:
                return AnswerPosition((*ids, *pieces.ids, *self._tail_ids), self._yes, self._no)
            document = _shorter(document, pieces, start, over)
            if not document:
                raise UserError(
                    f"max_prompt_tokens: format and query take all {self._most} tokens of a pair; raise max_prompt_tokens if the "
                    "model has more positions, or remove such long queries"
                )

    def _encoded(self, query: str, document: str) -> tuple[list[int], Pieces, int]:
        """The ids before the text segment with the document, the pieces of that segment, and the document's offset in it."""
        ids, front = self._head_ids, f"{self._lead}{query}{self._between.first}"
        if self._between.control:
            ids = [*ids, *self._plain.pieces_with_tags(front).ids, *self._between_ids]
            front = self._between.last
        return ids, self._plain.pieces_with_tags(f"{front}{document}{self._rest}"), len(front)


class _Parts(NamedTuple):
    """A text of the format, split around its control tokens: ``first`` has none; ``control`` begins and ends with one."""

    first: str
    control: str
    last: str


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _parted(tokenizer: Any, text: str) -> _Parts:
    encoded, control = backend_of(tokenizer).encode(text, add_special_tokens=False), added_ids(tokenizer)
    spans = [span for one, span in zip(encoded.ids, encoded.offsets, strict=True) if one in control]
    if not spans:
        return _Parts(text, "", "")
    start, end = spans[0][0], spans[-1][1]
    return _Parts(text[:start], text[start:end], text[end:])


def _shorter(document: str, pieces: Pieces, start: int, over: int) -> str:
    """The document, which begins at ``start`` of the pieces' text, without its last ``over`` tokens; whole characters only."""
    ends = [end - start for _, end in pieces.offsets if start < end <= start + len(document)]
    kept = len(ends) - over
    while kept > 0 and ends[kept - 1] == ends[kept]:  # both tokens hold bytes of the same character
        kept -= 1
    return document[: ends[kept - 1]] if kept > 0 else ""
