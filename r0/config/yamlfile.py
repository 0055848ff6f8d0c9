"""YAML for configurations: safe loading, duplicate keys refused, line numbers recorded, and YAML 1.2 scalars.

PyYAML follows YAML 1.1, which reads ``1e-6`` as a string and ``off`` as a boolean. Here ``1e-6`` is a number and only
``true`` and ``false`` are booleans.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from r0.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+(?:_[0-9]+)*$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    """An integer in decimal, whatever zeros it begins with: ``010`` is 10, which PyYAML reads as octal."""
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)

# What loading a node raises: PyYAML's own errors, and those of its constructors and of ``int``, as for ``!!bool x``.
_FAULTS = (yaml.YAMLError, ValueError, LookupError, AttributeError)


@dataclass
class Document:
    """A mapping read from YAML, and the location of each key: ``places["reward.acc_weight"] == "run.yaml:12"``."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def give_way(self, given: Collection[str], twins: Mapping[str, str]) -> None:
        """Remove the keys whose twins are ``given`` above this document, so that one replaces the other.

        ``twins``: pairs of keys that mean the same, such as ``max_think_tokens`` → ``reward.max_think_tokens``.
        """
        for one, other in (*twins.items(), *((other, one) for one, other in twins.items())):
            if one in given and self.places.pop(other, None) is not None:
                values, last = _section(self.values, other)
                values.pop(last, None)


def read(path: str | Path, aliases: Mapping[str, str] | None = None, twins: Mapping[str, str] | None = None) -> Document:
    """Read a file, merged over the file named by its ``base:``, if any.

    Args:
        path: the file.
        aliases: aliases of keys at the top level (a section's key as ``lora.r``); the result uses the keys' own names.
        twins: pairs of keys that mean the same; one in the file replaces the other in its base.

    Raises:
        UserError: missing file, invalid UTF-8 or YAML, not a mapping, a duplicate key, or a base with a base.
    """
    document = _read_one(Path(path), aliases or {})
    base = document.values.pop("base", None)
    document.places.pop("base", None)
    if base is None:
        return document
    below = _read_one(Path(path).parent / str(base), aliases or {})
    if "base" in below.values:
        raise UserError(f"{below.places['base']}: base: {base} has a base itself; one level is allowed, merge the two files")
    below.give_way(document.places, twins or {})
    return Document(merge(below.values, document.values), {**below.places, **document.places})


def merge(below: dict, above: dict) -> dict:
    """``above`` merged over ``below``, section by section."""
    result = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict):
            value = merge(result[name], value)
        result[name] = value
    return result


def scalar(text: str) -> Any:
    """One value parsed as YAML: ``5``, ``1e-6``, ``true``, ``[q_proj, v_proj]``; text that is not YAML stays text."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except _FAULTS:
        return text


def _read_one(path: Path, aliases: Mapping[str, str]) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if node is None:
        return Document()
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:1: a configuration is a mapping of keys to values")
    document = Document()
    loader = _Loader("")
    document.values = _mapping(node, "", path, document.places, loader, aliases)
    return document


def _mapping(
    node: yaml.MappingNode, above: str, path: Path, places: dict[str, str], loader: _Loader, aliases: Mapping[str, str]
) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    named = [(str(getattr(key_node, "value", "")), key_node, value_node) for key_node, value_node in node.value]
    # Aliases of keys in a section come last, so that they override the section's own values.
    for written, key_node, value_node in sorted(named, key=lambda one: "." in aliases.get(one[0], "")):
        place = f"{path}:{key_node.start_mark.line + 1}"
        name = aliases.get(written, written)
        values, inner = _section(whole, name) if name != written else (whole, name)
        if inner in values:
            other = f" ({written} is an alias of it)" if written != name else ""
            raise UserError(f"{place}: {above}{name} is given twice{other}; keep one")
        places[above + name] = place
        if isinstance(value_node, yaml.MappingNode):
            values[inner] = _mapping(value_node, f"{above}{name}.", path, places, loader, {})
        else:
            try:
                values[inner] = loader.construct_object(value_node, deep=True)
            except _FAULTS as error:
                said = getattr(error, "problem", None) or "cannot be read; write a plain value, without a tag such as !!bool"
                raise UserError(f"{place}: {above}{name}: {said}") from None
    return whole


def _section(values: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The mapping that ``path`` (``lora.r``) leads to in ``values``, and its last name; missing sections are created."""
    *sections, last = path.split(".")
    for name in sections:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    return values, last
