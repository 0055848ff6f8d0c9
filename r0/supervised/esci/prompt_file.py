"""The prompt settings an ESCI model was trained with, stored in its folder (``r0_esci.json``) and reused when it is measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from r0.config import EsciConfig, EsciEvalConfig
from r0.config.types import Variable
from r0.data.esci import CLASSES, WORDS
from r0.errors import UserError
from r0.storage.files import write_atomic

FILE = "r0_esci.json"
SYSTEM_PROMPT = (
    "You grade the results of a shop's search. Answer with one word: exact if the item is what the query asks for, substitute if "
    "it could be bought instead, complement if it goes with what is asked for, irrelevant if it does none of these."
)
INSTRUCTION = "Say how the item relates to the query."


@dataclass(frozen=True)
class PromptSettings:
    """The system prompt, the first line of the user message, the budget of a prompt, the labels' words, as ``CLASSES``, and the
    variables of the chat template."""

    system_prompt: str = SYSTEM_PROMPT
    instruction: str = INSTRUCTION
    max_prompt_tokens: int = 512
    words: tuple[str, ...] = WORDS
    chat_template_kwargs: Mapping[str, Variable] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it into ``folder``."""
        content = asdict(self) | {"words": dict(zip(CLASSES, self.words, strict=True))}
        write_atomic(folder / FILE, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


def load_prompt_settings(folder: Path) -> PromptSettings | None:
    """What ``save`` left in ``folder``; None where there is nothing.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        words = tuple(str(content["words"][name]) for name in CLASSES)
        return PromptSettings(
            str(content["system_prompt"]), str(content["instruction"]), int(content["max_prompt_tokens"]), words,
            dict(content.get("chat_template_kwargs", {})),
        )  # fmt: skip
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / FILE}: is damaged ({error}); copy it again from the run") from None


def prompt_settings(config: EsciConfig | EsciEvalConfig, known: PromptSettings | None) -> PromptSettings:
    """What the configuration asks for; where it says nothing, ``known`` (what the model was trained with), or r0's own."""
    known = known or PromptSettings()
    return replace(
        known,
        system_prompt=config.system_prompt or known.system_prompt,
        max_prompt_tokens=config.max_prompt_tokens or known.max_prompt_tokens,
        chat_template_kwargs={**known.chat_template_kwargs, **config.chat_template_kwargs},
    )
