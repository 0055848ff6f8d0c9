"""``metrics.jsonl`` and ``timings.jsonl``: one JSON line per step, appended; and the clock for the second file.

``metrics.jsonl`` contains only values that a repeated run reproduces bit for bit. ``step`` comes first, the other keys are
sorted; floats are written with full precision, NaN and infinity as null. A held-out evaluation has its own line, with the
step after which it was run.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import SupportsFloat

from r0.errors import UserError
from r0.process.spans import span
from r0.storage.files import write_atomic


class Record:
    """A file of JSON lines with one ``step`` each, in order.

    Args:
        path: the file; appended to if it exists.
    """

    def __init__(self, path: Path):
        self.path = path
        self._stream: io.FileIO | None = None

    def resume(self, step: int, every: int = 1) -> str | None:
        """Drop the lines after ``step`` (all lines if it is 0), those that cannot be read, and an incomplete last line.

        The file is replaced atomically, so an interruption leaves the old one. Returns what was lost of the lines up to ``step``,
        in a sentence; None if nothing was. ``every``: steps between lines.
        """
        self.close()
        lines = list(_lines(self.path))
        kept = [line for line, at in lines if step > 0 and at is not None and at <= step]
        if self.path.exists() or kept:
            write_atomic(self.path, b"".join(kept))
        number = {index + 1: at for index, (_, at) in enumerate(lines)}
        last = max((at for at in number.values() if at is not None), default=0)
        damaged = [index for index, at in number.items() if at is None and index < len(lines)]
        if step and damaged:
            return f"{self.path}: line {', '.join(map(str, damaged))} was damaged and is dropped; the record has a hole there"
        if last < step - step % every:
            return f"{self.path}: nothing is recorded after step {last}; the record has a hole up to step {step}"
        return None

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Append one line. On return it is in the operating system's buffers, so it survives if the process is killed.

        Raises:
            UserError: the file cannot be written (disk full, read-only).
        """
        content = {"step": step, **{name: plain(values[name]) for name in sorted(values)}}
        try:
            self._stream = self._stream or self._open()
            self._stream.write(json.dumps(content, allow_nan=False, separators=(", ", ": ")).encode() + b"\n")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written: {error.strerror}; free space and run the same command again to resume"
            ) from None

    def sync(self) -> None:
        """Flush to disk (required before a checkpoint counts as complete)."""
        if self._stream:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file; a later ``write`` reopens it."""
        if self._stream:
            self._stream.close()
        self._stream = None

    def _open(self) -> io.FileIO:
        return io.FileIO(self.path, "ab")  # unbuffered: one write call per line


def read_record(path: Path) -> list[dict[str, float | None]]:
    """The sound lines of a record, in order; empty if the file is missing."""
    return [json.loads(line) for line, step in _lines(path) if step is not None]


def heldout_lines(path: Path) -> list[dict[str, float]]:
    """The held-out evaluations in a record: each its ``step`` and its figures, without those that are no number."""
    found = [line for line in read_record(path) if any(name.startswith("heldout/") for name in line)]
    return [{name: value for name, value in line.items() if value is not None} for line in found]


def plain(value: SupportsFloat) -> int | float | None:
    """A number for JSON: integers stay integers, NaN and infinity become None. Accepts NumPy and torch scalars."""
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _lines(path: Path) -> Iterator[tuple[bytes, int | None]]:
    """Lines with their steps; None for one that is damaged or incomplete."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            try:
                step = int(json.loads(line)["step"]) if line.endswith(b"\n") else None
            except (ValueError, KeyError, TypeError, RecursionError):
                step = None
            yield line, step


class Clock:
    """Seconds by name. ``with clock("sample"): …`` accumulates until ``take``."""

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self._now = now
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block, even if it raises; it is a span of the driver, too."""
        with span("driver", name):
            start = self._now()
            try:
                yield
            finally:
                self.add(name, self._now() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds measured by another process."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """The seconds accumulated since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds


def memory_mb() -> dict[str, float]:
    """Resident memory in MB by process: ``driver``, and Ray's workers below it on this machine, by class name."""
    import psutil

    driver = psutil.Process()
    found = {"driver": driver.memory_info().rss / 1e6}
    for child in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            title = child.cmdline()[0]
            if title.startswith("ray::") and not title.startswith(("ray::IDLE", "ray::IDLE_")):
                name = title.removeprefix("ray::").split(".")[0].split(":")[0].strip().lower()
                found[name] = found.get(name, 0.0) + child.memory_info().rss / 1e6
    return found
