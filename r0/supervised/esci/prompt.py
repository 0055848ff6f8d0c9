"""The question of which class an item is in, and the four tokens that answer it.

The prompt is a chat by the model's own template, ended so that the label's word comes next: with an empty thought where the model
can think. The logits of the first tokens of the four words make the probabilities. The same prompt is kept as a chat template for
pairs (``PairFormat``), so that other libraries write it too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from r0.data.jsonl import BadLine
from r0.errors import UserError
from r0.records import PointwiseTask
from r0.storage.positions import positions
from r0.supervised.esci.prompt_file import PromptSettings
from r0.supervised.finetune.template import PairFormat
from r0.text.prompt_file import template_variables
from r0.text.prompts import Prompter
from r0.text.template import Template
from r0.text.template_variables import rendered
from r0.text.tokenizer import open_tokenizer

CLOSED = "\n</think>\n\n"  # behind a thought that the template opened


class EsciPrompter(Prompter):
    """Query and item as the user message. Query and item are data, as in every prompt; an item that is too long loses its end.

    ``words`` [4] are the tokens of the labels, in the order of ``CLASSES``; ``opening`` are those between template and word.

    Raises:
        UserError: the tokenizer or its template cannot be used, two labels begin with the same token, or the template fills the
            budget.
    """

    def __init__(self, tokenizer: Any, settings: PromptSettings):
        template = Template(tokenizer, settings.system_prompt, settings.chat_template_kwargs)
        self.opening, self.words = _label_words(template, _empty_thought(tokenizer, template), settings.words)
        self.settings = replace(settings, chat_template_kwargs=template.variables)
        room = settings.max_prompt_tokens - len(self.opening)
        super().__init__(tokenizer, settings.system_prompt, room, variables=template.variables)
        ids = (*self.template.tail_ids, *self.opening)
        if ids and ids[-1] == tokenizer.pad_token_id:
            raise UserError("model: its prompt ends with the padding token, which no classifier reads; give it another pad_token")

    @classmethod
    def open(cls, folder: Path, settings: PromptSettings) -> Self:
        """The prompter of the model in ``folder``.

        Raises:
            UserError: as the constructor; or the model has fewer positions than the budget.
        """
        most = positions(folder)
        if most is not None and settings.max_prompt_tokens > most:
            raise UserError(
                f"max_prompt_tokens: {settings.max_prompt_tokens} tokens are more than the {most} positions of {folder.name}; "
                f"use max_prompt_tokens={most}, and longer items are cut"
            )
        tokenizer = open_tokenizer(folder, pads=True)
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise UserError("model: its tokenizer has neither padding nor end token; set pad_token in tokenizer_config.json")
        variables = template_variables(folder, settings.chat_template_kwargs)
        return cls(tokenizer, replace(settings, chat_template_kwargs=variables))

    def message(self, query: str, document: str) -> str:
        """The user message."""
        return f"Instruct: {self.settings.instruction}\nQuery: {query}\nItem: {document}"

    def ids(self, query: str, item: str) -> tuple[int, ...]:
        """[T] all tokens before the label's word.

        Raises:
            UserError: the query leaves no room for the item.
        """
        prompt = self.prompt(PointwiseTask(0, query.strip(), item.strip(), 0))
        return (*prompt.token_ids, *self.opening)

    def check_query(self, query: str) -> None:
        """Refuse a query that leaves no room for any item.

        Raises:
            BadLine: with the remedy.
        """
        if 4 * len(query.encode()) < self._room - 64:  # no tokenizer makes so many tokens of so few bytes
            return
        try:
            self.ids(query, "item")
        except UserError:
            most = self.settings.max_prompt_tokens
            raise BadLine(f"the query leaves no room for an item in max_prompt_tokens={most}; raise it") from None

    @property
    def pair(self) -> PairFormat:
        """The prompt as text around a query and an item."""
        before, between, _ = self.message("\0", "\1").replace("\1", "\0").split("\0")
        opening = self.tokenizer.decode(self.opening, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return PairFormat(self.template.head + before, between, self.template.tail + opening)


def _empty_thought(tokenizer: Any, template: Template) -> str:
    """What the model's own template writes behind the prompt where thinking is off; nothing for a model that does not think."""
    if template.prefix:
        return "" if "</think>" in template.prefix else CLOSED
    if not tokenizer.chat_template:
        return ""
    user = [{"role": "user", "content": "a"}]
    on, off = (
        tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True, **how)
        for how in (rendered(template.variables), rendered(template.variables) | {"enable_thinking": False})
    )
    return off.removeprefix(on) if off.startswith(on) else ""


def _label_words(template: Template, opening: str, words: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of ``opening``, and the first id of each word behind it, as the tokenizer writes them together.

    Raises:
        UserError: two words begin with the same id.
    """
    written = [template.trusted(opening + word) for word in words]
    shared = 0
    while all(len(ids) > shared + 1 for ids in written) and len({ids[shared] for ids in written}) == 1:
        shared += 1
    firsts = [ids[shared] if len(ids) > shared else None for ids in written]
    for place, first in enumerate(firsts):
        if first is None or first in firsts[:place]:
            other = words[firsts.index(first)]
            raise UserError(
                f"model: its tokenizer begins the labels {other} and {words[place]} with the same token, so that one logit would "
                "stand for both; use another model"
            )
    return tuple(written[0][:shared]), tuple(int(first) for first in firsts if first is not None)
