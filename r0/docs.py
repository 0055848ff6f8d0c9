"""The reference of all configuration keys, made from the configuration classes: ``python -m r0.docs`` prints it as Markdown.

mkdocs loads this file as a hook (``mkdocs.yml``): the page that holds ``MARK`` gets the reference in its place, at every build.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from r0.config.describe import bounded_type, choices, show
from r0.config.load import aliases_of, section_of
from r0.launch import COMMANDS, default_config

MARK = "<!-- keys -->"
HEAD = ("| key | type and bounds | default | meaning |", "|---|---|---|---|")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs' hook: the reference in place of ``MARK``."""
    return markdown.replace(MARK, reference())


def reference() -> str:
    """Every command with its keys, then every section once."""
    sections: dict[type[BaseModel], None] = {}
    lines: list[str] = []
    for name in COMMANDS:
        lines += _command(name, sections)
    lines += ["## Sections", "", "A section's key is given as `section.key=value`, in a file as a mapping.", ""]
    for section in sections:
        lines += _section(section)
    return "\n".join(lines)


def _command(name: str, sections: dict[type[BaseModel], None]) -> Iterator[str]:
    """The heading, the table and the shipped file of a command; its sections are added to ``sections``."""
    command = COMMANDS[name]
    yield from (f"## r0 {name} {{ #{_anchor(name)} }}", "", _text(_first(command.config)), "")
    if command.positionals:
        yield from (f"`r0 {name} {command.places}`", "")
    yield from _table(command.config)
    for section in _sections(command.config):
        sections.setdefault(section)
    if command.shipped and not command.positionals and (file := default_config(name)).is_file():
        yield from (f'??? example "The shipped file configs/{file.name}, used where no file is given"', "", "    ```yaml")
        yield from (f"    {line}".rstrip() for line in file.read_text(encoding="utf-8").splitlines())
        yield from ("    ```", "")


def _section(section: type[BaseModel]) -> Iterator[str]:
    yield from (f"### {_title(section)} {{ #{_anchor(section.__name__)} }}", "", _text(_first(section)), "")
    yield from _table(section)


def _sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The sections of a configuration, and theirs."""
    for field in model.model_fields.values():
        if (section := section_of(field.annotation)) is not None:
            yield section
            yield from _sections(section)


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield from HEAD
    aliases = aliases_of(model)
    inner: list[str] = []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        meaning = _text(field.description or "")
        if section is not None:
            inner.append(f"| `{name}.…` | section [{_title(section)}](#{_anchor(section.__name__)}) | | {meaning} |")
            continue
        default = "required" if field.default is PydanticUndefined else f"`{_text(show(field.default))}`"
        if field.default is None:
            default = "empty"
        meaning += _also(aliases, name)
        yield f"| `{name}` | {_type(field)} | {default} | {meaning} |"
    yield from (*inner, "")
    into = [f"`{other}` for `{own}`" for other, own in aliases.items() if "." in own]
    if into:
        yield from (f"Other names of keys in sections: {', '.join(into)}.", "")


def _also(aliases: Mapping[str, str], name: str) -> str:
    others = [f"`{other}`" for other, own in aliases.items() if own == name]
    return f" (also {', '.join(others)})" if others else ""


def _type(field: Any) -> str:
    """The type with its bounds; a closed set of words as such."""
    words = choices(field.annotation)
    if words and words != ("true", "false"):
        empty = " or empty" if type(None) in getattr(field.annotation, "__args__", ()) else ""
        return ", ".join(f"`{word}`" for word in words) + empty
    return _text(bounded_type(field))


def _first(model: type[BaseModel]) -> str:
    """The first paragraph of a class's docstring."""
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _title(section: type[BaseModel]) -> str:
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+|[A-Z]+", section.__name__.removesuffix("Section"))
    return " ".join(words)


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _text(text: str) -> str:
    """Plain text for a cell of a table: no HTML, no cell borders; what stands in backquotes stays."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("``", "`")


if __name__ == "__main__":
    sys.stdout.write(reference() + "\n")
