"""The variables of a chat template: those that are given, and two that r0 sets where they are not.

* A template that closes the thought before the model writes is told to leave it open, if it has a variable of ``THINKING``.
* A template that reads today's date (``strftime_now``) is given one, which stays the same for a run and its model.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeAlias

from r0.config.types import DATE, Variable
from r0.errors import UserError

THINKING = ("enable_thinking", "thinking")  # in the order in which they are tried

Variables: TypeAlias = Mapping[str, Variable]


def mentions(template: str, name: str) -> bool:
    """Whether a template's text has the word ``name``."""
    return re.search(rf"\b{re.escape(name)}\b", template) is not None


def check_known(template: str, variables: Variables) -> None:
    """Refuse variables that the template does not read.

    Raises:
        UserError: with the nearest word of the template.
    """
    for name in variables:
        if not mentions(template, name):
            near = difflib.get_close_matches(name, set(re.findall(r"[A-Za-z_]\w*", template)), n=1, cutoff=0.8)
            remedy = f"did you mean {near[0]}?" if near else "correct the name, or remove it"
            raise UserError(f"chat_template_kwargs.{name}: the model's chat template has no variable {name}; {remedy}")


def with_date(template: str, variables: Variables) -> dict[str, Variable]:
    """The variables, with today's date where the template reads it and none is given."""
    today = {DATE: date.today().isoformat()} if mentions(template, DATE) else {}
    return {**today, **variables}


def rendered(variables: Variables) -> dict[str, Any]:
    """The variables as a template is rendered with: the date is a function of a format."""
    found: dict[str, Any] = dict(variables)
    if DATE in found:
        found[DATE] = datetime.fromisoformat(str(found[DATE])).strftime
    return found


def reads_date(folder: Path) -> bool:
    """Whether a chat template in a model's folder reads today's date."""
    names = ("tokenizer_config.json", "chat_template.json", "chat_template.jinja", "additional_chat_templates/*.jinja")
    files = (path for name in names for path in folder.glob(name))
    return any(mentions(path.read_text(encoding="utf-8", errors="replace"), DATE) for path in files)
