"""A JSONL file to which finished items are appended; an interrupted run resumes from its lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from r0.errors import UserError
from r0.storage.files import writing

Row = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)


class ResumableJsonl(Generic[Key]):
    """The lines of the file at ``path``, by key. A context manager.

    An incomplete last line is cut off.

    Args:
        path: the file; created if missing.
        key_of: returns the key of a line's object. It may raise ``UserError`` (with the mismatch and the remedy); a
            ``ValueError``, ``KeyError``, ``TypeError`` or ``AttributeError`` means that the line is damaged.
        write: False to only read a file that another process may be writing.

    Raises:
        UserError: a line is damaged, or the file cannot be opened.
    """

    def __init__(self, path: Path, key_of: Callable[[Row], Key], write: bool = True):
        self.path, self._key_of = path, key_of
        self._at: dict[Key, int] = {}  # byte offset of each key's line
        with writing(path):
            self._file = path.open("a+b" if write else "rb")
        try:
            end = self._read()
            if write:
                with writing(path):
                    self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise

    def __contains__(self, key: object) -> bool:
        return key in self._at

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Key]:
        """The keys, in the order in which their lines were appended."""
        return iter(self._at)

    def __getitem__(self, key: Key) -> Row:
        """The object of a line."""
        self._file.seek(self._at[key])
        return json.loads(self._file.readline())

    def add(self, row: Row, sync: bool = True) -> None:
        """Append a line. On return it is on disk; with ``sync=False`` only after the next call of ``sync``."""
        with writing(self.path):
            self._at[self._key_of(row)] = self._file.seek(0, os.SEEK_END)
            self._file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        if sync:
            self.sync()

    def sync(self) -> None:
        """Flush the appended lines to disk."""
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self) -> int:
        """Index the lines; return the byte offset of the end of the last complete line."""
        self._file.seek(0)
        offset = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                self._at[self._key_of(json.loads(line))] = offset
            except UserError as error:
                raise UserError(f"{self.path}:{number}: {error}") from None
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{self.path}:{number}: is damaged; delete the line, or start over with fresh=true") from None
            offset += len(line)
        return offset
