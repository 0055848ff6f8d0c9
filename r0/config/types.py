"""The types of keys: bounded numbers, texts that name files, and the variables of a chat template."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

LARGEST = 2**31 - 1  # of integers; seeds too: ranks add their number to it, and NumPy takes less than 2**32

Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountFrom2 = Annotated[int, Field(ge=2, le=LARGEST)]
CountFrom0 = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = CountFrom0
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Epochs = Annotated[float, Field(gt=0, le=1e6)]
Seconds = Annotated[float, Field(gt=0, le=1e8)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Names:
    """Marks a key that can name a file or a folder. ``content``: the run reads the file, and a resumed run must find the same;
    ``weights``: that of a model's folder."""

    content: bool = False
    weights: bool = False


def _expanded(text: str) -> str:
    """``~/x`` with the home directory, which shells leave as it is behind ``key=``."""
    return os.path.expanduser(text) if text.startswith("~") else text


PathText = Annotated[str, AfterValidator(_expanded), Names()]
DataText = Annotated[str, AfterValidator(_expanded), Names(content=True)]
ModelText = Annotated[str, AfterValidator(_expanded), Names(content=True, weights=True)]


def names_files(field: FieldInfo) -> Names | None:
    """Whether a key names files, and whether their content is part of the run."""
    return next((one for one in _parts([*field.metadata, field.annotation]) if isinstance(one, Names)), None)


def _parts(parts: Any) -> Iterator[Any]:
    for part in parts:
        if isinstance(part, Names):
            yield part
        yield from _parts(getattr(part, "__metadata__", ()))
        yield from _parts(get_args(part))


def step_range(text: str) -> tuple[int, int]:
    """The first and the last step of ``5-7``, or of ``5``.

    Raises:
        ValueError: it is neither.
    """
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not dash)) or not 1 <= int(first) <= int(last or first):
        raise ValueError(f"{text!r} is neither true nor false nor a range of steps; write it as 5-7")
    return int(first), int(last or first)


def _profile(given: object) -> object:
    """``true``, ``false`` or a range of steps; the latter in a file as ``profile: {steps: 5-7}`` too."""
    if isinstance(given, dict) and list(given) == ["steps"]:
        given = given["steps"]
    if given in ("true", "false") or isinstance(given, bool):
        return given in ("true", True)
    step_range(str(given))
    return str(given)


Profile = Annotated[bool | str, BeforeValidator(_profile)]


DATE = "strftime_now"  # the function by which chat templates read today's date; in a configuration, the date itself
RESERVED = (  # arguments of the call that renders a template, which are no variables of it
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length", "messages",
    "padding", "processor_kwargs", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize",
    "tokenizer_kwargs", "tools", "truncation",
)  # fmt: skip
Variable = bool | int | float | str


def _variables(given: object) -> dict[str, Variable]:
    """The variables of a chat template, checked."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError("is a mapping of variables to values; write it as chat_template_kwargs.enable_thinking=true")
    for name, value in given.items():
        if not str(name).isidentifier() or name in RESERVED:
            raise ValueError(f"{name}: is no variable of a chat template; remove it")
        if not isinstance(value, Variable):
            raise ValueError(f"{name}: must be a text, a number, true or false")
        if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off"):
            raise ValueError(f"{name}: {value!r} would be a text, which a template takes for true; write true or false")
        if name == DATE and not _is_date(value):
            raise ValueError(f"{name}: is the date that the template reads as today's; write it as 2026-01-31")
    return dict(given)


def _is_date(value: Variable) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


TemplateVariables = Annotated[dict[str, Variable], BeforeValidator(_variables)]
