"""What a trained model was told: its system prompt, kept in its folder, so that whoever uses the model says the same.

``r0_prompt.json``: ``{"answer": "permutation", "system_prompt": "…"}``, an empty prompt for none.
"""

from __future__ import annotations

import json
from pathlib import Path

from r0.records import Form
from r0.storage.files import write_atomic
from r0.text.messages import SYSTEM_PROMPTS

FILE = "r0_prompt.json"


def remember(folder: Path, form: Form, system_prompt: str) -> None:
    """Write into the model's ``folder`` what it was trained with.

    Raises:
        UserError: the disk refuses.
    """
    content = {"answer": form.value, "system_prompt": system_prompt}
    write_atomic(folder / FILE, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


def told(folder: Path, form: Form, own: str | None = None) -> str:
    """The system prompt for answers of ``form``: what the model in ``folder`` was trained with, else ``own`` (r0's own)."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content["answer"] == form and isinstance(content["system_prompt"], str):
            return content["system_prompt"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a model that r0 did not train
    return SYSTEM_PROMPTS[form] if own is None else own
