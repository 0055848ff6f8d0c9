"""The prompts of a list and the positions of its answers: the same token ids for sampling, training and evaluation."""

from __future__ import annotations

from pathlib import Path

from r0.actors.rollout.settings import stop_ids
from r0.config import StageCConfig
from r0.errors import UserError
from r0.records import Form, ListwiseTask, Prompt
from r0.storage.positions import positions
from r0.supervised.finetune.template import answer_words, own_prompt
from r0.supervised.stage_c.lists import pairs
from r0.text.answer_position import ANSWER_PREFIX_TOKENS, AnswerPositions
from r0.text.completion import CompletionReader
from r0.text.prompt_file import load_system_prompt, template_variables
from r0.text.prompts import Prompter
from r0.text.tokenizer import open_tokenizer


class ListPrompter:
    """Prompts and answer positions for the model in ``folder``. ``pair`` is the prompt without a thought as text, for other
    libraries.

    Raises:
        UserError: the tokenizer or its template cannot be used; its words for yes and no begin with the same token; prompt and
            completion exceed the model's positions.
    """

    def __init__(self, config: StageCConfig, folder: Path):
        _check_length(config, folder)
        self.tokenizer = open_tokenizer(folder, pads=True)
        system = config.system_prompt or load_system_prompt(folder, Form.YES_NO)
        variables = template_variables(folder, config.chat_template_kwargs)
        self.prompter = Prompter(self.tokenizer, system, config.max_prompt_tokens, variables=variables)
        if config.thinking:
            self.prompter.template.check_thinks()
        self.reader = CompletionReader(self.tokenizer, stop_ids(folder))
        self.places = AnswerPositions(self.prompter.template, self.reader)
        self.places.check_tokenizer()
        self.pair = answer_words(self.tokenizer, own_prompt(self.tokenizer, system, variables))

    def prompts(self, task: ListwiseTask) -> list[Prompt]:
        """[N] one prompt per document.

        Raises:
            UserError: the query alone leaves no room for a document.
        """
        return [self.prompter.prompt(pair) for pair in pairs(task)]


def length(config: StageCConfig) -> int:
    """Tokens of the longest sequence: prompt, completion, and an answer prefix that is written again."""
    return config.max_prompt_tokens + config.max_new_tokens + ANSWER_PREFIX_TOKENS


def _check_length(config: StageCConfig, folder: Path) -> None:
    most = positions(folder)
    if most is not None and length(config) > most:
        room = most - config.max_new_tokens - ANSWER_PREFIX_TOKENS
        remedy = f"lower max_prompt_tokens to at most {room}" if room > 0 else "lower max_new_tokens"
        raise UserError(
            f"max_prompt_tokens={config.max_prompt_tokens} and max_new_tokens={config.max_new_tokens} are, with "
            f"{ANSWER_PREFIX_TOKENS} kept, more than the {most} positions of {folder.name}; {remedy}"
        )
