"""A JSONL file to which finished items are appended; an interrupted run resumes from its lines."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from r0.errors import UserError
from r0.storage.files import json_line, writing

Row = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)


class ResumableJsonl(ABC, Generic[Key]):
    """The lines of the file at ``path``, by key. A context manager; subclasses define ``key_of``.

    An incomplete last line is cut off.

    Args:
        path: the file; created if missing.
        write: False to only read a file that another process may be writing.

    Raises:
        UserError: a line is damaged, or the file cannot be opened.
    """

    SYNC_S: ClassVar[float] = 0.0  # maximum seconds until appended lines are flushed to disk

    def __init__(self, path: Path, write: bool = True):
        self.path = path
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
        self._waiting, self._synced = False, time.monotonic()

    @abstractmethod
    def key_of(self, row: Row) -> Key:
        """The key of a line's object.

        Raises:
            UserError: the line does not belong to this run (with the mismatch and the remedy).
            ValueError, KeyError, TypeError, AttributeError: the line is damaged.
        """

    def __contains__(self, key: object) -> bool:
        return key in self._at

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Key]:
        """The keys, in the order in which their lines were appended."""
        return iter(self._at)

    def row(self, key: Key) -> Row:
        """The object of a line."""
        self._file.seek(self._at[key])
        return json.loads(self._file.readline())

    def append(self, row: Row) -> None:
        """Append a line. It is on disk within ``SYNC_S`` seconds, or after ``sync`` or ``close``."""
        with writing(self.path):
            self._at[self.key_of(row)] = self._file.seek(0, os.SEEK_END)
            self._file.write(json_line(row))
        self._waiting = True
        if time.monotonic() - self._synced >= self.SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Flush the appended lines to disk."""
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._waiting, self._synced = False, time.monotonic()

    def close(self) -> None:
        """Flush to disk and close the file."""
        try:
            if self._waiting:
                self.sync()
        finally:
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
                self._at[self.key_of(json.loads(line))] = offset
            except UserError as error:
                raise UserError(f"{self.path}:{number}: {error}") from None
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{self.path}:{number}: is damaged; delete the line, or start over with fresh=true") from None
            offset += len(line)
        return offset
