"""The position of a yes/no answer about one document: the token ids before it, and the two ids that yes and no begin with.

At this position, score = logit(yes) − logit(no), and P(yes) over the two = σ(score). Reranking reads the score; stage C trains
it.

* Without a thought: the prompt is followed by an empty thought and ``<answer>``, minus what the chat template already opened.
* After a completion: it is cut where its answer begins, and ``<answer>`` is written again. Without an answer it is cut behind its
  thought. A thought that is still open is closed, and a completion that has none counts as one without a thought, so that every
  completion has a position.

The two ids depend on how the tokenizer encodes ``<answer>yes</answer>`` and ``<answer>no</answer>``: they are the first ids
that differ (in some vocabularies they include the ``>`` of the tag). The ids before them are shared.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from r0.errors import UserError
from r0.records import Answer, Prompt
from r0.text.completion import ANSWER, THINK, CompletionReader
from r0.text.spans import UNKNOWN
from r0.text.template import Template

# Token budget, beyond prompt and completion, for re-encoding the beginning of an answer.
ANSWER_PREFIX_TOKENS = 32


@dataclass(frozen=True, slots=True)
class AnswerPosition:
    """``context_ids`` [T]: all ids before the answer. ``yes_id`` and ``no_id`` differ."""

    context_ids: tuple[int, ...]
    yes_id: int
    no_id: int


class AnswerPositions:
    """Finds answer positions for one model.

    Args:
        template: the model's chat template.
        reader: decodes completion ids.
    """

    def __init__(self, template: Template, reader: CompletionReader):
        self._template, self._reader = template, reader

    def check_tokenizer(self) -> None:
        """Refuse a tokenizer whose first differing id does not distinguish yes from no.

        Raises:
            UserError: both words have the same ids, or begin with the same id after the tag.
        """
        yes, _, shared = self._words(ANSWER[0])
        if len(self._reader.text(yes[:shared]).replace(" ", "")) > len(ANSWER[0]):  # some decode with spaces between tokens
            raise UserError(
                f"model: its tokenizer begins both yes and no with {self._reader.text(yes[shared - 1 : shared])!r}, so no single "
                "token tells them apart; use a model whose vocabulary begins the two words differently"
            )

    def without_thought(self, prompt: Prompt) -> AnswerPosition:
        """The answer position with thinking switched off.

        Raises:
            UserError: yes and no have the same ids.
        """
        opening = "" if THINK[1] in prompt.prefix else THINK[1] if prompt.prefix else "".join(THINK)
        return self._place(prompt.token_ids, opening + ANSWER[0])

    def after_completion(self, prompt: Prompt, completion_ids: Sequence[int]) -> AnswerPosition:
        """The answer position of a completion, whether or not it has an answer.

        Raises:
            UserError: yes and no have the same ids.
        """
        text = self._reader.text(completion_ids).rstrip(UNKNOWN)
        answer, thought_end = _answer_start(text), text.rfind(THINK[1])
        cut = answer if answer >= 0 else thought_end + len(THINK[1]) if thought_end >= 0 else len(text)
        before = prompt.prefix + text[:cut]
        is_open = THINK[0] in before and THINK[1] not in before
        if not is_open and max(answer, thought_end) < 0:
            return self.without_thought(prompt)
        kept, opening = self._cut(tuple(completion_ids), text[:cut])
        return self._place((*prompt.token_ids, *kept), opening + THINK[1] * is_open + ANSWER[0])

    def word_tokens(self, completion_ids: Sequence[int]) -> range:
        """The indices of completion tokens that overlap the text between the answer tags; empty if there is no answer."""
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

    def _place(self, context: tuple[int, ...], opening: str) -> AnswerPosition:
        """The position reached by writing ``opening``, which ends with ``<answer>``, after ``context``."""
        yes, no, shared = self._words(opening)
        return AnswerPosition((*context, *yes[:shared]), yes[shared], no[shared])

    def _words(self, opening: str) -> tuple[list[int], list[int], int]:
        """The ids of the yes answer and of the no answer after ``opening``, and the length of their common prefix."""
        yes, no = (self._template.trusted(f"{opening}{answer.value}{ANSWER[1]}") for answer in (Answer.YES, Answer.NO))
        shared = next((i for i, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
        if shared is None:
            raise UserError("model: its tokenizer encodes yes and no as the same ids, so P(yes) is undefined; use another model")
        return yes, no, shared

    def _cut(self, token_ids: tuple[int, ...], text: str) -> tuple[tuple[int, ...], str]:
        """The ids that decode to the beginning of ``text``, which is that of the completion, and the remaining characters."""
        length = self._length(token_ids)
        count = bisect_left(range(len(token_ids)), len(text), key=length)
        kept = token_ids[: count if length(count) <= len(text) else count - 1]
        before = self._reader.text(kept)
        if not text.startswith(before):  # the ids' prefix is no prefix of the text: encode all again
            kept, before = (), ""
        return kept, text[len(before) :]

    def _length(self, token_ids: Sequence[int]) -> Callable[[int], int]:
        """A function from a number of ids to the number of characters they decode to, without an incomplete character."""
        return lambda count: len(self._reader.text(token_ids[:count]).rstrip(UNKNOWN))


def _answer_start(text: str) -> int:
    """The offset of the answer that ``read_lenient`` reads: behind the thought, the tag of the last pair, else the last opening
    tag, else −1.
    """
    thought_end = max(text.rfind(THINK[1]), 0)
    opening = text.rfind(ANSWER[0], thought_end, max(text.rfind(ANSWER[1]), 0))
    return opening if opening >= 0 else text.rfind(ANSWER[0], thought_end)
