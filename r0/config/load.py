"""Builds a validated configuration from a YAML file and ``key=value`` overrides; errors name the location and the remedy."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from r0.config import yamlfile
from r0.config.models import NAMES, preset
from r0.config.suggest import listed, nearest_keys
from r0.errors import UserError

Config = TypeVar("Config", bound=BaseModel)


def load(model: type[Config], path: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """Build the configuration ``model`` from the file at ``path`` (None: all defaults), overridden by ``key=value`` texts.

    Raises:
        UserError: anything wrong with the file, a key or a value; lists all wrong keys, one per line.
    """
    aliases, twins = aliases_of(model), getattr(model, "TWINS", {})
    document = yamlfile.read(path, aliases, twins) if path is not None else yamlfile.Document()
    overrides = list(overrides)
    names = [text.partition("=")[0] for text in overrides]
    document.give_way([aliases.get(name, name) for name in names], twins)
    for text in overrides:
        if text.startswith("model_preset=") and (name := text.partition("=")[2]) in NAMES:
            document.values = yamlfile.merge(document.values, preset(name).values_for(model))
    for text in overrides:
        _override(model, document, text)
    try:
        return model.model_validate(document.values)
    except ValidationError as error:
        raise UserError("\n".join(_sentences(model, document, error))) from None


def aliases_of(model: type[BaseModel]) -> Mapping[str, str]:
    """The aliases of keys, used at the top level of a configuration: alias → key, such as ``lora.r``."""
    return getattr(model, "ALIASES", {})


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as ``PPOSection | None``."""
    for kind in get_args(annotation) if _is_union(annotation) else (annotation,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _override(model: type[BaseModel], document: yamlfile.Document, text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{text}: an override is written key=value")
    place = f"{text} (on the command line)"
    path = aliases_of(model).get(path, path)
    names = path.split(".")
    values, kind = document.values, model
    for depth, name in enumerate(names):
        field = kind.model_fields.get(name)
        if field is None:
            raise UserError(f"{place}: {_unknown(model, names, depth)}")
        if get_origin(field.annotation) is dict and depth == len(names) - 2:
            if isinstance(given := values.get(name) or {}, dict):  # else, as below
                values[name] = {**given, names[-1]: yamlfile.scalar(value)}
                document.places[path] = place
            return
        section = section_of(field.annotation)
        last = depth == len(names) - 1
        if last and section is not None:
            raise UserError(f"{place}: {path} is a section; give its keys, such as {path}.{next(iter(section.model_fields))}=…")
        if not last and section is None:
            raise UserError(f"{place}: {'.'.join(names[: depth + 1])} is a value, not a section")
        if last:
            values[name] = _parse(field.annotation, value)
            document.places[path] = place
        elif section is not None:
            if values.get(name) is None:
                values[name] = {}
            if not isinstance(values[name], dict):
                return  # the file's value stays, and validation names it
            values, kind = values[name], section


def _parse(annotation: Any, text: str) -> Any:
    """A command-line value by the field's type: text stays text, lists are split at commas, everything else is read as YAML
    (a number or a word, such as ``auto``, too)."""
    kinds = [_bare(kind) for kind in (get_args(annotation) if _is_union(annotation) else (annotation,))]
    if type(None) in kinds and text in ("", "null", "none"):
        return None
    if str in kinds or all(kind is type(None) or _is_text_literal(kind) for kind in kinds):
        return text
    if any(get_origin(kind) is tuple for kind in kinds):
        if not text.startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return json.loads(text)  # as the launcher writes words: YAML reads no surrogates
        except ValueError:
            pass
    return yamlfile.scalar(text)


def _bare(kind: Any) -> Any:
    """A type without its bounds and marks."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_text_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal and all(isinstance(choice, str) for choice in get_args(kind))


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _unknown(model: type[BaseModel], names: Sequence[str], depth: int) -> str:
    """The message for the key ``names``, of which the part at ``depth`` does not exist."""
    above = ".".join(names[:depth])
    near = nearest_keys(".".join(names).lower(), list(_paths(model)), aliases_of(model))
    where = f"in section {above}" if above else "at the top level"
    hint = f"did you mean {listed(near)}?" if near else "--help lists all keys"
    return f"unknown key {names[depth]} {where}; {hint}"


def _paths(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every key with its path, and every section."""
    for name, field in model.model_fields.items():
        yield above + name
        if (section := section_of(field.annotation)) is not None:
            yield from _paths(section, f"{above}{name}.")


def _sentences(model: type[BaseModel], document: yamlfile.Document, error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        names = _names(model, item["loc"], unknown=item["type"] == "extra_forbidden")
        path = ".".join(names)
        place = _place(document, names)
        if item["type"] == "extra_forbidden":
            text = _unknown(model, names, len(names) - 1)
        elif item["type"] == "missing":
            text = f"{path} is missing"
        elif item["type"] == "value_error":
            text = (f"{path}: " if path else "") + str(item["ctx"]["error"])
            inner = str(item["ctx"]["error"]).split(":")[0].split(".")
            place = _place(document, [*names, *inner]) or place or _place(document, inner)
        elif item["type"] in ("tuple_type", "list_type"):
            text = f"{path}: input should be a list, such as [{item['input']}], not {item['input']!r}"
        elif item["type"] == "model_type":
            text = f"{path}: is a section, whose keys are written below it, not {item['input']!r}"
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            text = f"{path}: {message}, not {item['input']!r}" if path else message
        lines.append(f"{place}: {text}" if place else text)
    return list(dict.fromkeys(lines))


def _place(document: yamlfile.Document, names: list[str]) -> str:
    """The location (file:line) of a key, or of the section around it."""
    while names:
        if ".".join(names) in document.places:
            return document.places[".".join(names)]
        names = names[:-1]
    return ""


def _names(model: type[BaseModel], location: Sequence[int | str], unknown: bool) -> list[str]:
    """The key at pydantic's location of an error, without branches of unions and positions in lists.

    ``unknown``: the last part of the location is a key that does not exist.
    """
    names: list[str] = []
    kind: type[BaseModel] | None = model
    for place, part in enumerate(location):
        field = kind.model_fields.get(str(part)) if kind is not None else None
        if field is not None:
            names.append(str(part))
            if get_origin(field.annotation) is dict:
                names += map(str, location[place + 1 : place + 2])
            kind = section_of(field.annotation)
    return [*names, str(location[-1])] if unknown else names
