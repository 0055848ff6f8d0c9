"""Rows of a file without their texts in memory: one validating pass stores the byte offset of each row; rows are read on
demand.

Memory: 21 bytes per row (25 in grouped files): byte offset int64, length int32, query hash uint64, flags uint8, hit number
int32. Each line is fully parsed once at the start, so bad lines are found before training.
"""

from __future__ import annotations

import os
from array import array
from math import isnan
from pathlib import Path
from typing import Protocol

import numpy as np

from r0.data.hashes import query_hash
from r0.data.jsonl import BadLine, BadLines, Row, parse, read_lines, readable_file
from r0.data.readers import DataKind, Judged, LabelRule, judged
from r0.data.row_files import BrokenRows, is_plain, spooled
from r0.data.row_keys import Keys
from r0.errors import UserError
from r0.records import PointwiseTask, Task

RELEVANT, THOUGHT, UNJUDGED = 1, 2, 4  # bits of a row's flags


class Rows(Protocol):
    """Tasks by row number. ``flags_N`` is uint8 [rows] with the bits ``RELEVANT``, ``THOUGHT`` and ``UNJUDGED``; ``bad`` holds
    the skipped lines.
    """

    name: str
    flags_N: np.ndarray
    bad: BadLines
    unjudged: int  # candidates without a judgement, treated as not relevant

    def __len__(self) -> int: ...

    def query_hashes(self) -> np.ndarray:
        """Hash of each row's normalized query: uint64 [rows]."""
        ...

    def task(self, row: int) -> Task:
        """The task of row ``row``, whose number is the ``task_id``."""
        ...


class FileRows:
    """Rows of a file by offset and length. Safe to fork and pickle: reads are positioned (pread), and the handle is not
    pickled. A file that is not plain JSON lines is unpacked to a temporary file, once in each process that reads it.

    Raises:
        UserError: on reading, the file is missing or has changed since it was indexed, or cannot be unpacked.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        self._print = _fingerprint(self.path)
        self._fd: int | None = None

    def row(self, offset: int, length: int) -> Row:
        """The object at byte ``offset``."""
        if self._fd is None:
            self._fd = self._open()
        try:
            return parse(os.pread(self._fd, length, offset).removeprefix(b"\xef\xbb\xbf" if offset == 0 else b""))
        except (BadLine, OSError):
            raise self.changed() from None

    def changed(self) -> UserError:
        """The error for a file that changed since it was indexed."""
        return UserError(
            f"{self.path}: the file was changed or removed during the run; restart the run and do not modify the file"
        )

    def _open(self) -> int:
        try:
            if _fingerprint(self.path) != self._print:
                raise self.changed()
            if is_plain(self.path):
                return os.open(self.path, os.O_RDONLY)
            with spooled(self.path) as file:
                return os.dup(file.fileno())
        except (OSError, BrokenRows):
            raise self.changed() from None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_fd": None}

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)  # type: ignore[arg-type]


def _fingerprint(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def no_rows(path: Path, bad: BadLines) -> UserError:
    """The error for a file without a valid row."""
    skipped = f" ({bad.count} bad lines skipped, the first: {bad.first[0]})" if bad.count else ""
    return UserError(f"{path}: contains no rows{skipped}; give a file with at least one valid row of tasks")


class JsonlRows:
    """Pointwise or grouped rows of a JSONL file, or a raw log; each hit of a grouped row and each document of a log is one task.

    Raises:
        UserError: the file cannot be used, has a bad line (that is not skipped), or has no row.
    """

    def __init__(self, path: Path, kind: DataKind, rule: LabelRule, skip_bad: bool = False):
        self.name = str(path)
        self.bad = BadLines(skip_bad)
        self._kind, self._rule = kind, rule
        self._file = FileRows(readable_file(path, "a JSONL file of tasks"))
        offsets, lengths, hits, hashes, flags = array("q"), array("i"), array("i"), array("Q"), array("B")
        for line in read_lines(path, self.bad, f"reading {path.name}"):
            try:
                keys = Keys(line.row)
                found = judged(keys, kind, rule)
            except BadLine as error:
                self.bad.refuse(path, line.number, str(error))
                continue
            keys.tell(self.bad, path)
            hashed = query_hash(found[0].query)
            for hit, pair in enumerate(found):
                offsets.append(line.offset)
                lengths.append(line.length)
                hashes.append(hashed)
                flags.append(RELEVANT * pair.relevant | THOUGHT * bool(pair.think.strip()) | UNJUDGED * isnan(pair.grade))
                if kind != DataKind.POINTWISE:
                    hits.append(hit)
        if not offsets:
            raise no_rows(path, self.bad)
        self._offsets_N = np.frombuffer(offsets, np.int64)
        self._lengths_N = np.frombuffer(lengths, np.int32)
        self._hits_N = np.frombuffer(hits, np.int32) if hits else None
        self._hashes_N = np.frombuffer(hashes, np.uint64)
        self.flags_N = np.frombuffer(flags, np.uint8)
        self.unjudged = int((self.flags_N & UNJUDGED != 0).sum())

    def __len__(self) -> int:
        return len(self._offsets_N)

    def query_hashes(self) -> np.ndarray:
        """uint64 [rows]."""
        return self._hashes_N

    def task(self, row: int) -> PointwiseTask:
        """Read row ``row`` from the file.

        Raises:
            UserError: the file changed since it was indexed.
        """
        pair = self._pair(row)
        return PointwiseTask(row, pair.query, pair.document, int(pair.relevant), pair.think)

    def _pair(self, row: int) -> Judged:
        read = self._file.row(int(self._offsets_N[row]), int(self._lengths_N[row]))
        try:
            pair = judged(Keys(read), self._kind, self._rule)[0 if self._hits_N is None else int(self._hits_N[row])]
        except (BadLine, IndexError):
            raise self._file.changed() from None
        if query_hash(pair.query) != int(self._hashes_N[row]):
            raise self._file.changed()
        return pair

    def nbytes(self) -> int:
        """Memory used by the index, in bytes."""
        arrays = (self._offsets_N, self._lengths_N, self._hits_N, self._hashes_N, self.flags_N)
        return sum(values.nbytes for values in arrays if values is not None)
