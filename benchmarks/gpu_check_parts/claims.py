"""Claims: what was tried, whether it held, with which figures. A part appends them to a file as it goes; the end is a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class State(StrEnum):
    """What became of a claim."""

    HELD = "held"
    NOT_HELD = "not held"
    NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Claim:
    """One line of the table. ``note`` is the figures, or why it was not tried or could not be shown."""

    part: str
    text: str
    state: State
    note: str = ""
    values: Mapping[str, Any] | None = None  # the figures as numbers, for the JSON


class Report:
    """The claims of one part, appended to ``file`` one by one, so that a part that is ended keeps those it has made.

    Args:
        part: its name.
        texts: the sentences of its claims, by key.
        file: JSON lines.
    """

    def __init__(self, part: str, texts: Mapping[str, str], file: Path):
        self._part, self._texts, self._file = part, texts, file

    def claim(self, key: str, held: bool, note: str, **values: Any) -> None:
        """Record whether a claim holds."""
        self._write(key, State.HELD if held else State.NOT_HELD, note, values)

    def skip(self, key: str, why: str, **values: Any) -> None:
        """Record that a claim cannot be tried here."""
        self._write(key, State.NOT_TRIED, why, values)

    def _write(self, key: str, state: State, note: str, values: dict[str, Any]) -> None:
        with self._file.open("a") as stream:
            stream.write(json.dumps(asdict(Claim(self._part, self._texts[key], state, note, values or None))) + "\n")


def read(file: Path) -> list[Claim]:
    """The claims in a report's file; none where the part made none."""
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [Claim(**{**line, "state": State(line["state"])}) for line in lines]


def table(claims: Sequence[Claim]) -> str:
    """A Markdown table: claim, result, figures."""
    rows = [("claim", "result", "figures"), ("---", "---", "---")]
    rows += [(each.text, each.state.value, " ".join(each.note.split()).replace("|", "/")) for each in claims]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
