"""The project's pages as tests read them: blocks of code, the commands in them, links, and which keys there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_origin

from r0.config.describe import keys
from r0.config.load import aliases_of, section_of
from r0.config.types import DATE
from r0.docs import on_page_markdown
from r0.launch import COMMANDS
from r0.text.template_variables import THINKING

VARIABLES = (*THINKING, DATE)  # of chat templates, which a page may name

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
RUN = "<!-- run -->"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # of its fence, from 1
    language: str
    runs: bool  # whether the line above the fence is RUN
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order; indented ones (in tabs) too."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        if opened := re.fullmatch(r"( *)```(\w*).*", lines[number]):
            indent, language = opened.groups()
            end = next(i for i in range(number + 1, len(lines)) if lines[i] == f"{indent}```")
            text = "\n".join(line.removeprefix(indent) for line in lines[number + 1 : end]) + "\n"
            found.append(Block(page, number + 1, language, number > 0 and lines[number - 1].strip() == RUN, text))
            number = end
        number += 1
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def inline_code(page: Path) -> list[str]:
    """What stands in single backquotes."""
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every ``r0 …`` in shell text, comments taken off; also behind ``ray job submit --``."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and words[0] != "r0":
            words = words[words.index("--") + 1 :] if words[:3] == ["ray", "job", "submit"] and "--" in words else []
        if words:
            yield words[1:]


def links(page: Path) -> list[str]:
    """The targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings; of the reference of keys, those that are made."""
    text = on_page_markdown(prose(page))
    given = set(re.findall(r"\{ #([\w-]+) \}$", text, flags=re.M))
    return given | {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)}


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub and mkdocs make it of plain words."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@cache
def known_keys() -> frozenset[str]:
    """Every key of every command: its path, the part within its section, its other names, and the sections."""
    found: set[str] = set()
    for command in COMMANDS.values():
        for path, field in keys(command.config):
            found |= {path, path.rpartition(".")[2]}
            if get_origin(field.annotation) is dict:
                found |= {f"{path}.{name}" for name in VARIABLES}
            parts = path.split(".")
            found |= {".".join(parts[:end]) for end in range(1, len(parts))} | {".".join(parts[1:])}
        found |= set(aliases_of(command.config))
        found |= {name for name, field in command.config.model_fields.items() if section_of(field.annotation)}
    return frozenset(found)
