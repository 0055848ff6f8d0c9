"""The token ids that a model's chat template puts around the user message.

* The template is rendered once around a placeholder, and the text before and after it is tokenized once. The system prompt
  comes from the user and is tokenized as part of the template. If a template refuses or drops a system message, it is put at
  the beginning of the user message.
* ``Template.prefix`` holds the ``<think>`` that some templates open for the assistant, and the ``</think>`` that closes it.
* A tokenizer without a chat template gets ``DEFAULT_CHAT_TEMPLATE``, which is ordinary text; ``Template.note`` says so.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any

from jinja2 import TemplateError

from r0.errors import UserError
from r0.text.completion import THINK
from r0.text.messages import user_message
from r0.text.plain_text import PlainText, without_lead
from r0.text.template_variables import THINKING, Variables, check_known, mentions, rendered, with_date

DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_PLACEHOLDER = "Query: r0 placeholder {}\nDocument: r0 end"
_OPENED = re.compile(r"(?:<think>\s*(?:</think>\s*)?|</think>\s*)\Z")


class Template:
    """The chat template of one tokenizer with one system prompt.

    Args:
        tokenizer: the model's transformers tokenizer (a fast one).
        system_prompt: system message; empty for none.
        variables: the template's variables (``r0.text.template_variables``).

    Attributes:
        head, tail: the texts before and after the user message.
        head_ids, tail_ids: the ids before and after the user message.
        lead: white space at the end of ``head`` that is tokenized with the message.
        message: encodes the message, including ``lead``.
        inner: encodes data that does not begin a message.
        prefix: a think tag that the template opens for the assistant, with the white space after it; or empty.
        variables: those that the template was rendered with.
        closed: whether the template closes the thought, so that the model writes none.
        note: what the user should know about the template; usually empty.

    Raises:
        UserError: the tokenizer or its template cannot be used.
    """

    def __init__(self, tokenizer: Any, system_prompt: str = "", variables: Variables | None = None):
        self._tokenizer = tokenizer
        self._without_lead = without_lead(tokenizer)
        self.inner = PlainText(tokenizer, lead=False)
        self.note = ""
        text = tokenizer.get_chat_template() if tokenizer.chat_template else DEFAULT_CHAT_TEMPLATE
        check_known(text, variables or {})
        self.variables = with_date(text, variables or {})
        self._given = any(name in self.variables for name in THINKING)
        self.head, self.tail = head, tail = self._with_open_thought(system_prompt.strip(), text)
        self.prefix = _prefix(tail)
        self.closed = THINK[1] in self.prefix
        if self.closed:
            closed = f"the chat template closes the thought ({_shown(self.variables)}), so that the model writes none"
            self.note = "; ".join(filter(None, (self.note, closed)))
        self.lead, self.head_ids, self.message, self.tail_ids = self._fit(head, tail)

    def trusted(self, text: str) -> list[int]:
        """The ids of a text written by r0: tags in it are real tags."""
        return self._without_lead.encode(text, add_special_tokens=False).ids if text else []

    def check_thinks(self, unless_chosen: bool = True) -> None:
        """Refuse a template that closes the thought where a thought is wanted; ``unless_chosen``: but not if its variable for
        thinking was set, since it was asked to.

        Raises:
            UserError: with the remedy.
        """
        if self.closed and not (unless_chosen and self._given):
            raise UserError(
                "model: its chat template closes the thought before the model writes, so no thought is taught or sampled; set "
                "its variable for thinking with chat_template_kwargs, or take the closed thought out of the template"
            )

    def _with_open_thought(self, system: str, text: str) -> tuple[str, str]:
        """Render the template; if it closes the thought, with a variable by which it does not, if it has one."""
        given, parts = self.variables, self._rendered(system)
        for name in () if self._given or THINK[1] not in _prefix(parts[1]) else THINKING:
            if mentions(text, name):
                self.variables = {**given, name: True}
                opened = self._rendered(system)
                if THINK[1] not in _prefix(opened[1]):
                    return opened
        self.variables = given
        return parts

    def _rendered(self, system: str) -> tuple[str, str]:
        """The text that the template puts before and after the user message."""
        template = None
        if not self._tokenizer.chat_template:
            template = DEFAULT_CHAT_TEMPLATE
            self.note = "the tokenizer has no chat template; r0's own is used: lines <|system|>, <|user|>, <|assistant|>"
        placeholder = next(_PLACEHOLDER.format(n) for n in range(1000) if _PLACEHOLDER.format(n) not in system)
        messages = [{"role": "user", "content": placeholder}]
        whole = None
        if system:
            whole = self._render([{"role": "system", "content": system}, *messages], template, optional=True)
            if whole is None or system not in whole:
                whole = None
                self.note = "the chat template takes no system message; it is put at the beginning of the user message"
                messages = [{"role": "user", "content": f"{system}\n\n{placeholder}"}]
        whole = whole or self._render(messages, template)
        parts = (whole or "").split(placeholder)
        if len(parts) != 2:
            raise UserError("model: its chat template does not render a user message exactly once; use another template")
        head, tail = parts
        bos = self._tokenizer.bos_token
        if template and bos and self._tokenizer("a").input_ids[:1] == [self._tokenizer.bos_token_id]:
            head = bos + head
        return head, tail

    def _render(self, messages: list[dict[str, str]], template: str | None, optional: bool = False) -> str | None:
        try:
            render = self._tokenizer.apply_chat_template
            how = rendered(self.variables)
            return render(messages, chat_template=template, tokenize=False, add_generation_prompt=True, **how)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            if optional:
                return None
            raise UserError(f"model: its chat template fails ({error}); give the tokenizer another template") from None

    def _fit(self, head: str, tail: str) -> tuple[str, list[int], PlainText, list[int]]:
        """Find how to tokenize the parts so that together they have the ids of the whole.

        Returns (white space that goes with the message, ids of the head, encoder of the message, ids of the tail). Tokenizers
        differ at boundaries (white space inserted before a text, a space joined to the next word), so the variants are tried on
        a sample. If none reproduces the ids of the whole, the shortest is taken; the boundary then differs slightly from the
        tokenizer's own.
        """
        own, sample = self._tokenizer, user_message("a", "b")
        whole = own.encode(head + sample + tail, add_special_tokens=False)
        spaces = head[len(head.rstrip(" ")) :]
        ways: dict[int, tuple[str, list[int], PlainText, list[int]]] = {}
        for lead, plain, keep_tail in product(dict.fromkeys(("", spaces)), (PlainText(own), self.inner), (True, False)):
            head_ids = own.encode(head[: len(head) - len(lead)], add_special_tokens=False) if head else []
            tail_ids = own.encode(tail, add_special_tokens=False) if keep_tail else self.trusted(tail)
            way = (lead, head_ids, plain, tail_ids)
            made = head_ids + plain.encode(lead + sample) + tail_ids
            if made == whole:
                return way
            ways.setdefault(len(made), way)
        return ways[min(ways)]


def _prefix(tail: str) -> str:
    """The think tag at the end of a template, with its white space; or empty."""
    opened = _OPENED.search(tail)
    return opened.group() if opened else ""


def _shown(variables: Variables) -> str:
    return ", ".join(f"{name}={str(variables[name]).lower()}" for name in THINKING if name in variables) or "in any case"
