"""Files that make the folder of a language model a sentence-transformers cross-encoder too, with stage C's score
(``r0.storage.cross_encoder_files``). Other conversations are rendered as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r0.records import Form
from r0.storage.cross_encoder_files import IDENTITY, write_cross_encoder
from r0.supervised.stage_c.list_prompter import ListPrompter
from r0.text.prompt_file import save_prompt
from r0.text.template import DEFAULT_CHAT_TEMPLATE


def pair_tokenizer(list_prompter: ListPrompter) -> Any:
    """The tokenizer of ``list_prompter``, changed in place: its chat template renders pairs too."""
    tokenizer = list_prompter.tokenizer
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    tokenizer.chat_template = list_prompter.pair.format.chat_template(tokenizer, trims=False)
    return tokenizer


def write_modules(folder: Path, list_prompter: ListPrompter) -> None:
    """Write the files that sentence-transformers reads beside model and tokenizer, and the system prompt."""
    prompter = list_prompter.prompter
    save_prompt(folder, Form.YES_NO, prompter.system_prompt, prompter.template.variables)
    # The score itself, which a sigmoid would round.
    write_cross_encoder(folder, IDENTITY, (list_prompter.pair.yes, list_prompter.pair.no))
