"""What ``--help`` prints: the keys of a command with meaning, type and default."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from r0.config.load import aliases_of, section_of


def describe(model: type[BaseModel], above: str = "", aliases: Mapping[str, str] | None = None) -> list[str]:
    """One entry a key, sections after plain keys, e.g. ``learning_rate (float, default 1e-06)`` and its meaning below.

    ``aliases`` are those of the whole configuration, where ``model`` is a section of it.
    """
    aliases = aliases_of(model) if aliases is None else aliases
    lines: list[str] = []
    sections = []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            sections.append((name, section, field.description))
            continue
        others = [other for other, own in aliases.items() if own == above + name]
        also = f"; also {', '.join(others)}" if others else ""
        default = "required" if field.default is PydanticUndefined else f"default {show(field.default)}"
        lines.append(f"  {above}{name} ({type_name(field.annotation)}, {default}{also})")
        lines += textwrap.wrap(field.description or "", 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    for name, section, meaning in sections:
        lines += ["", f"  {above}{name}: {meaning}"]
        lines += describe(section, f"{above}{name}.", aliases)
    return lines


def show(value: Any) -> str:
    """A default as a person would type it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value == "" else str(value)


def type_name(annotation: Any) -> str:
    """A short name of a field's type, e.g. ``int``, ``ppo | grpo``, ``float or empty``."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    arguments = get_args(annotation)
    if arguments and get_origin(annotation) is tuple:
        return f"list of {type_name(arguments[0])}"
    if arguments and hasattr(annotation, "__metadata__"):
        return type_name(arguments[0])
    if arguments:
        names = [type_name(kind) for kind in arguments if kind is not type(None)]
        return " or ".join(names) + (" or empty" if type(None) in arguments else "")
    return getattr(annotation, "__name__", str(annotation))
