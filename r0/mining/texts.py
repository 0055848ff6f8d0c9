"""Texts by id, either in a BEIR file and read on demand, or in memory.

Texts that differ only in case and white space count as equal.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from r0.data.beir import read_texts
from r0.data.hashes import query_hash
from r0.data.index import FileRows
from r0.data.jsonl import BadLine, BadLines, Row, readable_file

BLANK = query_hash("")  # the hash of documents without text
FOLDER = "a BEIR folder with corpus.jsonl, queries.jsonl and qrels/"


class Texts:
    """Texts by id, in order. ``same(id)`` is a hash that is equal for equal texts."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._at: dict[str, int] = {}
        self._same = array("Q")

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: object) -> bool:
        return name in self._at

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(id, text) of each."""
        return ((name, self.text(name)) for name in self.ids)

    def same(self, name: str) -> int:
        """The 64-bit hash of the normalized text."""
        return self._same[self._at[name]]

    def text(self, name: str) -> str:
        """The text of ``name``."""
        raise NotImplementedError

    def _add(self, name: str, text: str) -> None:
        self._at[name] = len(self.ids)
        self.ids.append(name)
        self._same.append(query_hash(text))


class FileTexts(Texts):
    """The texts of a BEIR file, read on demand.

    Raises:
        UserError: the file cannot be used or has no valid line; or it has a bad line or a repeated id, and bad lines are not
            skipped.
    """

    def __init__(self, path: Path, bad: BadLines, text: Callable[[Row], str]):
        super().__init__()
        self._text, self._offsets, self._lengths = text, array("q"), array("i")
        self._file = FileRows(readable_file(path, FOLDER))
        for name, content, line in read_texts(path, bad, text, FOLDER, known=self):
            self._add(name, content)
            self._offsets.append(line.offset)
            self._lengths.append(line.length)

    def text(self, name: str) -> str:
        """The text of ``name``.

        Raises:
            UserError: the file changed since it was read.
        """
        at = self._at[name]
        try:
            return self._text(self._file.row(self._offsets[at], self._lengths[at]))
        except BadLine:
            raise self._file.changed() from None


class MemoryTexts(Texts):
    """Numbered texts in memory; equal texts are stored once."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []
        self._known: dict[int, str] = {}

    def add(self, text: str) -> str:
        """Add ``text`` and return its id."""
        same = query_hash(text)
        if same not in self._known:
            self._known[same] = str(len(self.ids))
            self._add(self._known[same], text)
            self._texts.append(text)
        return self._known[same]

    def text(self, name: str) -> str:
        """The text of ``name``."""
        return self._texts[self._at[name]]
