"""Turns tasks into token ids with the chat template of the model's tokenizer (``r0.text.template``).

* One document: the user message is ``Query: …`` and, on the next line, ``Document: …``. A list: ``messages.list_message``, one
  document per line after its label. The message is tokenized as one text, so that template and message together have the ids
  that the tokenizer gives to the whole prompt (if a template ends in ordinary text, the boundary may differ).
* Queries, documents and thoughts are data: literal tags in them are escaped (``r0.text.tags``), they contain no id of the added
  vocabulary (``r0.text.plain_text``), and in a list no number in them looks like a label (``r0.text.numbers``).
* A document that exceeds the budget loses its end, at a character boundary. In a list each document is cut to
  ``passage_tokens``; if the list is still too long, its longest documents are cut to the largest common length that fits.
* If the template opens ``<think>`` for the assistant, ``Prompt.prefix`` holds that text and the white space after it, so that
  prefix + completion is the whole assistant message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from r0.errors import UserError
from r0.records import Answer, Form, ListwiseTask, PointwiseTask, Prompt, Task
from r0.text.answers import best_answer, read_strict
from r0.text.list_budget import Passage, at_character_end, fitted
from r0.text.messages import SYSTEM_PROMPTS, list_message, user_message
from r0.text.numbers import one_line, without_labels
from r0.text.prompt_file import template_variables
from r0.text.tags import strip_thought_tags
from r0.text.template import Template
from r0.text.template_variables import Variables

PASSAGE_TOKENS = 256
UNSETTLED_TOKENS = 64  # at the end of a text's beginning: what follows may change them


class PromptKeys(Protocol):
    """The configuration keys of a prompt; configurations for lists also have ``passage_tokens``."""

    @property
    def system_prompt(self) -> str:
        """System message; if empty, the form's default, or none."""

    @property
    def max_prompt_tokens(self) -> int:
        """Budget of a whole prompt, in tokens."""

    @property
    def chat_template_kwargs(self) -> Variables:
        """Variables of the chat template."""


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A prompt and its target completion, which ends with the end-of-sequence id."""

    prompt: Prompt
    completion_ids: tuple[int, ...]


class Prompter:
    """Builds the prompts of one model.

    Args:
        tokenizer: the model's transformers tokenizer (a fast one).
        system_prompt: system message; empty for none.
        max_prompt_tokens: budget of a whole prompt, in tokens.
        passage_tokens: budget of each document of a list, in tokens.
        variables: the variables of the chat template.

    Raises:
        UserError: the tokenizer or its template cannot be used, or the template alone exceeds the budget.
    """

    def __init__(
        self,
        tokenizer: Any,
        system_prompt: str = "",
        max_prompt_tokens: int = 2048,
        passage_tokens: int = PASSAGE_TOKENS,
        variables: Variables | None = None,
    ):
        self.tokenizer, self.max_prompt_tokens, self.passage_tokens = tokenizer, max_prompt_tokens, passage_tokens
        self.system_prompt, self.template = system_prompt, Template(tokenizer, system_prompt, variables)
        self.prefix, self.template_note = self.template.prefix, self.template.note
        fixed = len(self.template.head_ids) + len(self.template.tail_ids)
        if fixed >= max_prompt_tokens:
            raise UserError(
                f"max_prompt_tokens={max_prompt_tokens}: chat template and system prompt alone take {fixed} tokens; raise it"
            )

    @classmethod
    def of(cls, config: PromptKeys, tokenizer: Any, form: Form | None = None, folder: Path | None = None) -> Self:
        """Build the prompter of a command.

        If the configuration has no system prompt, a list form gets r0's default; yes/no gets it only if ``form`` is given.

        Args:
            config: system_prompt, max_prompt_tokens and, for lists, passage_tokens.
            tokenizer: the model's tokenizer.
            form: the answer form; None: the configuration's ``form``.
            folder: the model's folder, with the template variables that it was trained with.

        Raises:
            UserError: as the constructor.
        """
        own_form: Form = getattr(config, "form", Form.YES_NO)
        asked = form or own_form
        own = SYSTEM_PROMPTS[asked] if form or asked != Form.YES_NO else ""
        passage_tokens = getattr(config, "passage_tokens", PASSAGE_TOKENS)
        variables = template_variables(folder, config.chat_template_kwargs)
        return cls(tokenizer, config.system_prompt or own, config.max_prompt_tokens, passage_tokens, variables)

    def message(self, query: str, document: str) -> str:
        """The user message of one document; it ends with the document."""
        return user_message(query, document)

    def prompt(self, task: Task) -> Prompt:
        """The task as token ids; documents are cut to fit the budget.

        Raises:
            UserError: the query, or query and labels, leave no room for the documents.
        """
        ids, cut = self._list(task) if isinstance(task, ListwiseTask) else self._pair(task)
        return Prompt((*self.template.head_ids, *ids, *self.template.tail_ids), self.prefix, cut)

    def training_pair(self, task: Task) -> TrainingPair:
        """The prompt, and ``<think>…</think><answer>…</answer>`` with the end of sequence as its target. The thought is escaped
        as data.


        Raises:
            UserError: as ``prompt``; the tokenizer has no end-of-sequence token; or the task's answer is not of its form.
        """
        opening = "" if self.prefix else "<think>"
        closing = "" if "</think>" in self.prefix else "</think>"
        inner = self.template.inner
        think = inner.encode(inner.escape_tags(strip_thought_tags(task.think))) if closing else []
        trusted = self.template.trusted
        ids = (*trusted(opening), *think, *trusted(f"{closing}<answer>{_answer(task)}</answer>"), self._eos())
        return TrainingPair(self.prompt(task), ids)

    def completion_ids(self, text: str) -> tuple[int, ...]:
        """The ids of a completion written by r0 (its tags are real tags) with the end of sequence, minus the tag the template
        opened.
        """
        opening = self.prefix.strip()
        return (*self.template.trusted(text.removeprefix(opening) if opening else text), self._eos())

    @property
    def _room(self) -> int:
        """Tokens that the template leaves for the message."""
        return self.max_prompt_tokens - len(self.template.head_ids) - len(self.template.tail_ids)

    def _eos(self) -> int:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise UserError("model: its tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json")
        return eos

    def _pair(self, task: PointwiseTask) -> tuple[list[int], int]:
        """The message ids of one document, and the number of document tokens cut (of a very long document an estimate)."""
        reach = max(4096, 16 * self.max_prompt_tokens)  # characters: of a long document only the beginning is tokenized
        while True:
            document = task.document[:reach]
            # Escape the whole message (its length stays): "<" at the end of the query with "Document" after it looks like a tag.
            text = self.template.lead + self.template.message.escape_tags(self.message(task.query, document))
            ids = self.template.message.encode(text)
            unseen = len(task.document) - len(document)
            if not unseen and len(ids) <= self._room:
                return ids, 0
            if not unseen or len(ids) > self._room + UNSETTLED_TOKENS:
                kept = self._cut(task, text, len(text) - len(document))
                return kept, len(ids) - len(kept) + round(len(ids) * unseen / max(1, len(document)))
            reach *= 2

    def _cut(self, task: PointwiseTask, text: str, document_start: int) -> list[int]:
        """The first ids of the message that fit the budget and end at a character boundary."""
        ids, offsets = self.template.message.pieces(text)
        kept = at_character_end(offsets, self._room)
        if kept < 1 or offsets[kept - 1][1] <= document_start:
            query = sum(end <= document_start for _, end in offsets)
            need = self.max_prompt_tokens - self._room + query + 1
            raise UserError(
                f"max_prompt_tokens: task {task.task_id} needs at least {need} tokens before its document begins, and "
                f"{self.max_prompt_tokens} are allowed; raise max_prompt_tokens, or remove such long queries"
            )
        return ids[:kept]

    def _list(self, task: ListwiseTask) -> tuple[list[int], int]:
        """The message ids of a list, and the number of document tokens cut."""
        query, passages = self._clean(task.query), [self._passage(document) for document in task.documents]

        def list_ids(budget: int) -> list[int]:
            return self._list_ids(task.form, query, passages, budget)

        budget, ids = self.passage_tokens, list_ids(self.passage_tokens)
        if len(ids) > self._room:
            found = fitted(passages, budget, len(ids) - self._room, self._room, list_ids)
            if found is None:
                need = self.max_prompt_tokens - self._room + len(list_ids(1))
                raise UserError(
                    f"max_prompt_tokens: task {task.task_id} needs at least {need} tokens for its query and {task.size} "
                    f"documents, and {self.max_prompt_tokens} are allowed; raise max_prompt_tokens, show fewer documents at a "
                    "time, or remove such long queries"
                )
            budget, ids = found
        return ids, sum(passage.cut(budget) for passage in passages)

    def _list_ids(self, form: Form, query: str, passages: Sequence[Passage], budget: int) -> list[int]:
        text = list_message(query, [passage.first(budget) for passage in passages], form)
        return self.template.message.encode(self.template.lead + self.template.message.escape_tags(text))

    def _clean(self, text: str) -> str:
        message = self.template.message
        return message.escape_tags(without_labels(one_line(text), message.normalize))

    def _passage(self, document: str) -> Passage:
        """A document prepared for a list. Of a long document only the beginning is tokenized, and its token count is an
        estimate.
        """
        reach = max(4096, 16 * self.passage_tokens)  # characters
        while True:
            text = " " + self._clean(document[:reach])  # the space after the label
            pieces = self.template.inner.pieces(text)
            if reach >= len(document):
                return Passage(text, pieces, len(pieces.ids))
            if len(pieces.ids) > self.passage_tokens:
                return Passage(text, pieces, round(len(pieces.ids) * len(document) / reach))
            reach *= 2


def _answer(task: Task) -> str:
    """The content of the answer tags."""
    if isinstance(task, PointwiseTask):
        return (Answer.YES if task.label else Answer.NO).value
    answer = task.answer.strip() or best_answer(task.form, task.label)
    if wrong := read_strict(answer, task.form, task.size).violations:
        reasons = ", ".join(sorted(wrong))
        raise UserError(
            f"task {task.task_id}: its answer is not a complete {task.form} of {task.size} documents ({reasons}); correct it"
        )
    return answer
