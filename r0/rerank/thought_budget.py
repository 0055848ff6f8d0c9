"""Completions whose thought has a budget: none at all, or at most so many tokens.

A thought that is still open at its limit is closed there and the answer is begun for the model, as in budget forcing
(Muennighoff et al., 2025, s1). A thought that ended by itself below the limit is not touched.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from r0.records import Finish, Form, ListLabel, Prompt, Sampled
from r0.text.answers import best_answer
from r0.text.completion import ANSWER, THINK, CompletionReader
from r0.text.spans import UNKNOWN
from r0.text.template import Template

SPARE_TOKENS = 8  # for an answer written with more tokens than the usual one


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for at most ``max_new_tokens`` tokens after ``prompt_ids``."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """``token_ids`` [C] as sampled, the text of the completion with what was written for the model, and whether its thought was
    closed at the limit.
    """

    token_ids: tuple[int, ...]
    text: str
    finish: Finish
    forced: bool = False

    @property
    def tokens(self) -> int:
        """The number of sampled tokens."""
        return len(self.token_ids)


class ThoughtBudget:
    """Asks for completions of one model.

    Args:
        template: the model's chat template.
        reader: decodes completion ids.
        max_new_tokens: maximum length of a completion in tokens.
    """

    def __init__(self, template: Template, reader: CompletionReader, max_new_tokens: int):
        self._template, self._reader, self._most = template, reader, max_new_tokens

    def complete(self, prompt: Prompt, form: Form, size: int, limit: int | None) -> Generator[Wanted, Sampled, Completion]:
        """The completion of a prompt about ``size`` documents, with a thought of at most ``limit`` tokens (None: no budget).

        A forced completion about one document ends with its thought: the caller asks for the answer's token. One about a list
        has its answer; its thought may be cut before ``limit``, so that ``max_new_tokens`` leave room for the answer.
        """
        if limit is not None and form is not Form.YES_NO:
            limit = min(limit, self._most - self._answer_tokens(form, size))
        if limit is not None and limit <= 0:
            opening = "" if THINK[1] in prompt.prefix else THINK[1] if prompt.prefix else "".join(THINK)
            return (yield from self._answered(prompt, (), "", opening))
        first = yield Wanted(prompt.token_ids, self._most if limit is None else min(limit, self._most))
        text = self._reader.text(first.token_ids)
        if limit is None or first.finish is Finish.STOP:
            return Completion(first.token_ids, text, first.finish)
        if THINK[1] in prompt.prefix + text:  # the thought is over, the answer may not be
            if limit >= self._most:
                return Completion(first.token_ids, text, first.finish)
            rest = yield Wanted((*prompt.token_ids, *first.token_ids), self._most - limit)
            ids = (*first.token_ids, *rest.token_ids)
            return Completion(ids, self._reader.text(ids), rest.finish)
        if form is Form.YES_NO:
            return Completion(first.token_ids, text, Finish.STOP, forced=True)
        return (yield from self._answered(prompt, first.token_ids, text.rstrip(UNKNOWN), THINK[1]))

    def _answered(
        self, prompt: Prompt, thought_ids: tuple[int, ...], thought: str, closing: str
    ) -> Generator[Wanted, Sampled, Completion]:
        """The thought, closed, and the answer to a list."""
        opening = closing + ANSWER[0]
        context = (*prompt.token_ids, *thought_ids, *self._template.trusted(opening))
        rest = yield Wanted(context, self._most - len(thought_ids))
        text = thought + opening + self._reader.text(rest.token_ids)
        return Completion((*thought_ids, *rest.token_ids), text, rest.finish, forced=bool(thought_ids))

    def _answer_tokens(self, form: Form, size: int) -> int:
        """The tokens that an answer about a list may take."""
        label = ListLabel(tuple(float(place) for place in range(size)), tuple(range(size)))
        return len(self._template.trusted(best_answer(form, label) + ANSWER[1])) + SPARE_TOKENS
