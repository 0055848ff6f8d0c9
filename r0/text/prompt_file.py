"""The system prompt a model was trained with, stored in its folder and reused at inference.

``r0_prompt.json``: ``{"answer": "permutation", "system_prompt": "…"}``; an empty string means no system prompt.
"""

from __future__ import annotations

import json
from pathlib import Path

from r0.records import Form
from r0.storage.files import write_atomic
from r0.text.messages import SYSTEM_PROMPTS

FILE = "r0_prompt.json"


def save_system_prompt(folder: Path, form: Form, system_prompt: str) -> None:
    """Write the answer form and the system prompt of a trained model into its ``folder``.

    Raises:
        UserError: the file cannot be written.
    """
    content = {"answer": form.value, "system_prompt": system_prompt}
    write_atomic(folder / FILE, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


def load_system_prompt(folder: Path, form: Form, own: str | None = None) -> str:
    """The system prompt stored in ``folder`` for answers of ``form``; else ``own``, or r0's default if ``own`` is None."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content["answer"] == form and isinstance(content["system_prompt"], str):
            return content["system_prompt"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not a model trained by r0
    return SYSTEM_PROMPTS[form] if own is None else own
