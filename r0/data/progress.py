"""Progress of long passes over files, on standard error: a live bar on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PLAIN_EVERY_S = 10.0
_SMALL = 4 << 20  # smaller totals are not shown
_STEP = 1 << 18


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of units (bytes) completed since the last call. Silent without a title and for
    small totals.
    """
    if not title or total < _SMALL:
        yield lambda done: None
    elif sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _Lines(title, total)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        waiting = 0

        def advance(done: int) -> None:
            nonlocal waiting
            waiting += done
            if waiting >= _STEP:  # updating the bar for every line would be slow
                bar.advance(task, waiting)
                waiting = 0

        yield advance


class _Lines:
    """Prints a plain line every few seconds."""

    def __init__(self, title: str, total: int):
        self._title, self._total, self._done = title, total, 0
        self._next = time.monotonic() + _PLAIN_EVERY_S

    def __call__(self, done: int) -> None:
        before, self._done = self._done, self._done + done
        if before // _STEP == self._done // _STEP:
            return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PLAIN_EVERY_S
            print(f"{self._title}: {self._done / self._total:.0%}", file=sys.stderr, flush=True)
