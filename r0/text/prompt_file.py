"""The system prompt and the template variables that a model was trained with, stored in its folder and reused at inference.

``r0_prompt.json``: ``{"answer": "permutation", "system_prompt": "…", "chat_template_kwargs": {"enable_thinking": true}}``; an
empty string means no system prompt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from r0.config.types import Variable
from r0.records import Form
from r0.storage.files import write_atomic
from r0.text.messages import SYSTEM_PROMPTS
from r0.text.template_variables import Variables

FILE = "r0_prompt.json"


def save_prompt(folder: Path, form: Form, system_prompt: str, variables: Variables) -> None:
    """Write the answer form, the system prompt and the variables of the chat template of a trained model into its ``folder``.

    Raises:
        UserError: the file cannot be written.
    """
    content = {"answer": form.value, "system_prompt": system_prompt, "chat_template_kwargs": dict(variables)}
    write_atomic(folder / FILE, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


def stored_form(folder: Path) -> Form | None:
    """The answer form stored in ``folder``; None for a model that r0 did not train to answer."""
    answer = _read(folder).get("answer")
    return Form(answer) if answer in list(Form) else None


def load_system_prompt(folder: Path, form: Form, own: str | None = None) -> str:
    """The system prompt stored in ``folder`` for answers of ``form``; else ``own``, or r0's default if ``own`` is None."""
    content = _read(folder)
    if content.get("answer") == form and isinstance(content.get("system_prompt"), str):
        return content["system_prompt"]
    return SYSTEM_PROMPTS[form] if own is None else own


def template_variables(folder: Path | None, given: Variables) -> dict[str, Variable]:
    """The variables of the chat template: ``given``, and those stored in ``folder`` that are not given."""
    stored = _read(folder).get("chat_template_kwargs") if folder is not None else None
    known = stored.items() if isinstance(stored, dict) else ()
    return {**{name: value for name, value in known if isinstance(value, Variable)}, **given}


def _read(folder: Path) -> dict[str, Any]:
    """The content of the file; nothing for a model that r0 did not train."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
