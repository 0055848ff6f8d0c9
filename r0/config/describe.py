"""What ``--help``, the reference page and shell completion say of a command's keys: meaning, type, bounds and default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from r0.config.load import aliases_of, section_of
from r0.config.types import LARGEST

Config = TypeVar("Config", bound=BaseModel)


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
        lines.append(f"  {above}{name} ({bounded_type(field)}, {default}{also})")
        lines += textwrap.wrap(field.description or "", 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    for name, section, meaning in sections:
        lines += ["", f"  {above}{name}: {meaning}"]
        lines += describe(section, f"{above}{name}.", aliases)
    return lines


def keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a command with its path, such as ``reward.acc_weight``, and its field; sections themselves are no keys."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            yield above + name, field
        else:
            yield from keys(section, f"{above}{name}.")


def with_value(config: Config, name: str, value: Any) -> Config:
    """A copy of a configuration with another value of a key, which may be one of a section (``rollout.workers``)."""
    first, _, rest = name.partition(".")
    return config.model_copy(update={first: with_value(getattr(config, first), rest, value) if rest else value})


def choices(annotation: Any) -> tuple[str, ...]:
    """What a key can be, where that is a closed set of words: ``ppo``, ``grpo``; for a boolean ``true`` and ``false``."""
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is Literal:
        return tuple(map(str, get_args(annotation)))
    if get_origin(annotation) in (tuple, dict):
        return ()
    return tuple(word for kind in get_args(annotation) for word in choices(kind))


def bounded_type(field: FieldInfo) -> str:
    """The type of a key and its bounds, such as ``float ≥ 0 or empty``."""
    name, empty, _ = type_name(field.annotation).partition(" or empty")
    return " ".join(filter(None, (name, bounds(field)))) + empty


def bounds(field: FieldInfo) -> str:
    """The bounds of a number, such as ``≥ 1`` or ``0…1``; nothing where there are none."""
    found: dict[str, Any] = {}
    for constraint in _constraints([*field.metadata, field.annotation]):
        found |= {name: getattr(constraint, name) for name in ("ge", "gt", "le", "lt") if hasattr(constraint, name)}
    if found.get("le") == LARGEST:  # what a computer can count with, which says nothing of the key
        del found["le"]
    if {"ge", "le"} <= found.keys():
        return f"{found['ge']:g}…{found['le']:g}"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return " ".join(f"{signs[name]} {found[name]:g}" for name in signs if name in found)


def _constraints(parts: Any) -> Iterator[Any]:
    """The constraints in a field's metadata and in the annotations that its type is made of."""
    for part in parts:
        if isinstance(part, FieldInfo):
            yield from _constraints(part.metadata)
        elif hasattr(part, "__metadata__"):
            yield from _constraints(part.__metadata__)
        elif get_origin(part) is not None and get_origin(part) is not Literal:
            yield from _constraints(get_args(part))
        else:
            yield part


def show(value: Any) -> str:
    """A default as a person would type it."""
    if value is None or value == {}:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "empty"
    return repr(value) if value == "" else str(value)


def type_name(annotation: Any) -> str:
    """A short name of a field's type, e.g. ``int``, ``ppo | grpo``, ``float or empty``."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return "mapping"
    if arguments and get_origin(annotation) is tuple:
        return f"list of {type_name(arguments[0])}"
    if arguments and hasattr(annotation, "__metadata__"):
        return type_name(arguments[0])
    if arguments:
        names = [type_name(kind) for kind in arguments if kind is not type(None)]
        return " or ".join(names) + (" or empty" if type(None) in arguments else "")
    return getattr(annotation, "__name__", str(annotation))
