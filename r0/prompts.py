"""(query, document) → token ids, with the chat template of the model's own tokenizer.

* The user message is ``Query: …`` and, on the next line, ``Document: …``. The template is rendered once around a placeholder;
  what it puts before and behind the message is tokenized once, the message itself for each task. The system prompt is the user's
  own and tokenized like the template. Templates that refuse or drop a system message get it at the head of the user message.
* Query, document and thoughts are data: literal tags in them are defused (rule: ``r0.tags``) and no id of the added vocabulary
  appears in them (``r0.plain_text``).
* A document that does not fit the budget loses its end, at a token that ends a character.
* A template that opens ``<think>`` for the assistant is recognised: ``Prompt.prefix`` is that text with the white space behind
  it, so that prefix + completion is all that the assistant says.
* A tokenizer without a chat template gets ``DEFAULT_CHAT_TEMPLATE``, which is ordinary text; ``Prompter.template_note`` says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import Any

from jinja2 import TemplateError

from r0.errors import UserError
from r0.messages import user_message
from r0.plain_text import PlainText, without_lead
from r0.records import Answer, PointwiseTask, Prompt
from r0.tags import bare_thought

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_PLACEHOLDER = "Query: r0 placeholder {}\nDocument: r0 end"
_OPENED = re.compile(r"<think>\s*(?:</think>\s*)?\Z")


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A prompt and the completion to imitate, its end-of-sequence id included."""

    prompt: Prompt
    completion_ids: tuple[int, ...]


class Prompter:
    """Tasks as prompts of one model.

    Args:
        tokenizer: the model's transformers tokenizer (a fast one).
        system_prompt: system message; empty for none.
        max_prompt_tokens: budget of a whole prompt, in tokens.

    Raises:
        UserError: the tokenizer or its template cannot be used, or the template alone fills the budget.
    """

    def __init__(self, tokenizer: Any, system_prompt: str = "", max_prompt_tokens: int = 2048):
        self.tokenizer, self.max_prompt_tokens = tokenizer, max_prompt_tokens
        self.template_note = ""
        self._system = system_prompt.strip()
        self._without_lead = without_lead(tokenizer)
        self._thought = PlainText(tokenizer, lead=False)
        head, tail = self._rendered()
        opened = _OPENED.search(tail)
        self.prefix = opened.group() if opened else ""
        self._lead, self._head_ids, self._message, self._tail_ids = self._fit(head, tail)
        self._room = max_prompt_tokens - len(self._head_ids) - len(self._tail_ids)
        if self._room < 1:
            fixed = len(self._head_ids) + len(self._tail_ids)
            given = f"max_prompt_tokens={max_prompt_tokens}"
            raise UserError(f"max_prompt_tokens: template and system prompt alone take {fixed} tokens of {given}; raise it")

    def prompt(self, task: PointwiseTask) -> Prompt:
        """The task as token ids; its document cut where the budget ends.

        Raises:
            UserError: the query alone leaves no room for the document.
        """
        # Defused as a whole (it keeps its length): a "<" at a query's end and the "Document" behind it look like a tag too.
        text = self._lead + self._message.defuse(user_message(task.query, task.document))
        ids = self._message.encode(text)
        cut = 0
        if len(ids) > self._room:
            kept = self._cut(task, text, len(text) - len(task.document))
            cut = len(ids) - len(kept)
            ids = kept
        return Prompt((*self._head_ids, *ids, *self._tail_ids), self.prefix, cut)

    def training_pair(self, task: PointwiseTask) -> TrainingPair:
        """The prompt with ``<think>…</think><answer>…</answer>`` and the end of sequence; the thought is data like a document.

        Raises:
            UserError: as ``prompt``; or the tokenizer has no end-of-sequence token.
        """
        opening = "" if self.prefix else "<think>"
        closing = "" if "</think>" in self.prefix else "</think>"
        answer = Answer.YES if task.label else Answer.NO
        think = self._thought.encode(self._thought.defuse(bare_thought(task.think))) if closing else []
        ids = (*self._trusted(opening), *think, *self._trusted(f"{closing}<answer>{answer.value}</answer>"), self._eos())
        return TrainingPair(self.prompt(task), ids)

    def completion_ids(self, text: str) -> tuple[int, ...]:
        """A completion that r0 itself wrote (tags and all) with the end of sequence, less the tag that the template opened."""
        opening = self.prefix.strip()
        return (*self._trusted(text.removeprefix(opening) if opening else text), self._eos())

    def _trusted(self, text: str) -> list[int]:
        return self._without_lead.encode(text, add_special_tokens=False).ids if text else []

    def _eos(self) -> int:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise UserError("model: its tokenizer has no end-of-sequence token; set eos_token in tokenizer_config.json")
        return eos

    def _cut(self, task: PointwiseTask, text: str, document_start: int) -> list[int]:
        """The first ids of the message that fit the room and end with a whole character."""
        ids, offsets = self._message.pieces(text)
        kept = self._room
        while kept > 0 and offsets[kept][0] < offsets[kept - 1][1]:  # both carry bytes of one character
            kept -= 1
        if kept < 1 or offsets[kept - 1][1] <= document_start:
            query = sum(end <= document_start for _, end in offsets)
            need = self.max_prompt_tokens - self._room + query + 1
            raise UserError(
                f"max_prompt_tokens: task {task.task_id} needs at least {need} tokens before its document begins, and "
                f"{self.max_prompt_tokens} are allowed; raise max_prompt_tokens, or leave out queries that long"
            )
        return ids[:kept]

    def _rendered(self) -> tuple[str, str]:
        """What the template puts before and behind the user message."""
        template = None
        if not self.tokenizer.chat_template:
            template = DEFAULT_CHAT_TEMPLATE
            self.template_note = "the tokenizer has no chat template; r0's own is used: lines <|system|>, <|user|>, <|assistant|>"
        placeholder = next(_PLACEHOLDER.format(n) for n in range(1000) if _PLACEHOLDER.format(n) not in self._system)
        messages = [{"role": "user", "content": placeholder}]
        whole = None
        if self._system:
            whole = self._render([{"role": "system", "content": self._system}, *messages], template, optional=True)
            if whole is None or self._system not in whole:
                whole = None
                self.template_note = "the chat template takes no system message; it stands at the head of the user message"
                messages = [{"role": "user", "content": f"{self._system}\n\n{placeholder}"}]
        whole = whole or self._render(messages, template)
        parts = (whole or "").split(placeholder)
        if len(parts) != 2:
            raise UserError("model: its chat template does not show a user message exactly once; give the tokenizer another")
        head, tail = parts
        bos = self.tokenizer.bos_token
        if template and bos and self.tokenizer("a").input_ids[:1] == [self.tokenizer.bos_token_id]:
            head = bos + head
        return head, tail

    def _render(self, messages: list[dict[str, str]], template: str | None, optional: bool = False) -> str | None:
        try:
            render = self.tokenizer.apply_chat_template
            return render(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            if optional:
                return None
            raise UserError(f"model: its chat template fails ({error}); give the tokenizer another template") from None

    def _fit(self, head: str, tail: str) -> tuple[str, list[int], PlainText, list[int]]:
        """How to tokenize the parts so that together they are what the tokenizer makes of the whole.

        Returns (white space that goes with the message, ids of the head, encoder of the message, ids of the tail). Tokenizers
        differ in what they do at seams (white space put in front of a text, a space joined to the next word), so the ways are
        tried on a sample; where none gives the whole's ids, the shortest is taken, and the seam is merely unusual.
        """
        own, sample = self.tokenizer, user_message("a", "b")
        whole = own.encode(head + sample + tail, add_special_tokens=False)
        spaces = head[len(head.rstrip(" ")) :]
        ways: dict[int, tuple[str, list[int], PlainText, list[int]]] = {}
        for lead, plain, keep_tail in product(dict.fromkeys(("", spaces)), (PlainText(own), self._thought), (True, False)):
            head_ids = own.encode(head[: len(head) - len(lead)], add_special_tokens=False) if head else []
            tail_ids = own.encode(tail, add_special_tokens=False) if keep_tail else self._trusted(tail)
            way = (lead, head_ids, plain, tail_ids)
            made = head_ids + plain.encode(lead + sample) + tail_ids
            if made == whole:
                return way
            ways.setdefault(len(made), way)
        return ways[min(ways)]
