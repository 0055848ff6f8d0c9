"""Where a model says yes or no about one document: the ids before the answer's word, and the two ids that the word begins with.

score = logit(yes) − logit(no) there, and P(yes) over the two = σ(score). Reranking reads it, stage C trains it.

* Without a thought, an empty one and ``<answer>`` follow the prompt (less what the chat template opened already).
* After a thought, the completion is cut where its answer begins, and the tag is written once more.

Which two ids these are follows from how the tokenizer writes ``<answer>yes</answer>`` and ``<answer>no</answer>``: the first in
which they differ (in some vocabularies it carries the tag's ``>``), behind the ids that they share.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from r0.errors import UserError
from r0.records import Answer, Prompt, Violation
from r0.text.completion import ANSWER, THINK, CompletionReader
from r0.text.spans import UNKNOWN
from r0.text.template import Template

# Tokens, beyond prompt and completion, for writing the beginning of an answer once more in the tokenizer's own way.
ANSWER_ROOM = 32

UNREADABLE = frozenset({Violation.NO_ANSWER, Violation.BAD_ANSWER})
"""Lenient failures (``read_lenient``) of a completion that has no answer, and so no place of one."""


@dataclass(frozen=True, slots=True)
class AnswerPlace:
    """``context_ids`` [T] are all ids before the word; ``yes_id`` and ``no_id`` differ."""

    context_ids: tuple[int, ...]
    yes_id: int
    no_id: int


class AnswerPlaces:
    """The places of one model.

    Args:
        template: its chat template.
        reader: ids to text.
    """

    def __init__(self, template: Template, reader: CompletionReader):
        self._template, self._reader = template, reader

    def check_words(self) -> None:
        """Refuse a tokenizer in which one id cannot tell the two words apart.

        Raises:
            UserError: both are written alike, or begin with the same id behind the tag.
        """
        yes, _, shared = self._words(ANSWER[0])
        if len(self._reader.text(yes[:shared]).replace(" ", "")) > len(ANSWER[0]):  # some put a space between any two tokens
            raise UserError(
                f"model: its tokenizer begins both yes and no with {self._reader.text(yes[shared - 1 : shared])!r}, so no token "
                "is the answer's; use a model whose vocabulary begins the two words differently"
            )

    def without_thought(self, prompt: Prompt) -> AnswerPlace:
        """With thinking switched off.

        Raises:
            UserError: the tokenizer writes both words alike.
        """
        opening = "" if THINK[1] in prompt.prefix else THINK[1] if prompt.prefix else "".join(THINK)
        return self._place(prompt.token_ids, opening + ANSWER[0])

    def after_thought(self, prompt: Prompt, completion_ids: Sequence[int]) -> AnswerPlace:
        """Where the answer of a completion stands that has one (see ``UNREADABLE``).

        Raises:
            UserError: the tokenizer writes both words alike.
        """
        kept, opening = self._before_answer(tuple(completion_ids), self._reader.text(completion_ids))
        return self._place((*prompt.token_ids, *kept), opening)

    def word_tokens(self, completion_ids: Sequence[int]) -> range:
        """The tokens of a completion that hold anything of what stands between its answer tags; empty without an answer."""
        text = self._reader.text(completion_ids)
        opening = _answer_start(text)
        if opening < 0:
            return range(0)
        start, close = opening + len(ANSWER[0]), text.find(ANSWER[1], opening)
        end = len(text) if close < 0 else close
        length = self._length(completion_ids)
        first = last = bisect_right(range(len(completion_ids) + 1), start, key=length) - 1
        while last < len(completion_ids) and length(last) < end:
            last += 1
        return range(first, last)

    def _place(self, context: tuple[int, ...], opening: str) -> AnswerPlace:
        """The place where ``opening``, which ends with the answer's tag, goes on behind ``context``."""
        yes, no, shared = self._words(opening)
        return AnswerPlace((*context, *yes[:shared]), yes[shared], no[shared])

    def _words(self, opening: str) -> tuple[list[int], list[int], int]:
        """The ids of both answers behind ``opening``, and how many of their first ids they share."""
        yes, no = (self._template.trusted(f"{opening}{answer.value}{ANSWER[1]}") for answer in (Answer.YES, Answer.NO))
        shared = next((i for i, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
        if shared is None:
            raise UserError("model: its tokenizer writes yes and no alike, so there is no probability of yes; use another one")
        return yes, no, shared

    def _before_answer(self, token_ids: tuple[int, ...], text: str) -> tuple[tuple[int, ...], str]:
        """The ids that lie wholly before the answer's tag, and what is left of the text up to and with the tag."""
        place = _answer_start(text)
        kept = token_ids[: bisect_right(range(len(token_ids) + 1), place, key=self._length(token_ids)) - 1]
        before = self._reader.text(kept)
        if not text.startswith(before) or len(before) > place:  # a tokenizer whose texts do not add up: written anew
            kept, before = (), ""
        return kept, text[len(before) : place] + ANSWER[0]

    def _length(self, token_ids: Sequence[int]) -> Callable[[int], int]:
        """Characters of the first so many ids, as a function; a character that is begun counts with the id that ends it."""
        return lambda count: len(self._reader.text(token_ids[:count]).rstrip(UNKNOWN))


def _answer_start(text: str) -> int:
    """Where the answer begins that ``read_lenient`` reads: the last pair's tag, or the last tag where no pair is; −1: none."""
    opening = text.rfind(ANSWER[0], 0, max(text.rfind(ANSWER[1]), 0))
    return opening if opening >= 0 else text.rfind(ANSWER[0])
