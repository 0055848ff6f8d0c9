"""Ctrl-C and SIGTERM: the first asks the run to stop and save; the second ends it at once.

What waits is not waited for: where nothing would be lost, the first signal ends it at once, elsewhere after ``LATEST_S`` seconds.
Only saving is left to finish.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from enum import Enum
from types import FrameType
from typing import Self

LATEST_S = 15.0  # after the first signal; a run is over 30 s after it
AGAIN_S = 2.0  # a library may have swallowed the exception, or something was saved meanwhile


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has to. ``exit_code`` is 128 + the signal, as shells have it."""

    def __init__(self, exit_code: int, what: str = "stopped; the same command goes on from what is saved"):
        super().__init__(what)
        self.exit_code = exit_code


class Mode(Enum):
    """When the first signal ends what the main thread does."""

    AT_ONCE = "at once"
    LATE = "after LATEST_S"
    SAVING = "not at all"


class StopRequest:
    """Handles SIGINT and SIGTERM while its block runs (main thread only). ``asked`` is the first signal, or None; ``what`` is the
    message printed on the first signal."""

    def __init__(self, what: str = "stopping after this step, with a checkpoint") -> None:
        self.what = what
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}
        self._twice = False
        self._mode = Mode.LATE

    def __call__(self) -> bool:
        """Whether the run should stop."""
        return self.asked is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal, as in shells; 0 without a signal."""
        return 128 + self.asked if self.asked else 0

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Nothing in the block would be lost: the first signal ends it with ``Stopped``, and so does one that came before."""
        before, self._mode = self._mode, Mode.AT_ONCE
        try:
            if self.asked is not None:
                raise Stopped(self.exit_code)
            yield
        except KeyboardInterrupt as error:
            self._raise_stopped(error)
            raise
        finally:
            self._mode = before

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """The block is left to finish, even after a signal; only the second one ends it."""
        before, self._mode = self._mode, Mode.SAVING
        try:
            yield
        finally:
            self._mode = before

    def save_from_now_on(self) -> None:
        """The rest of the block that is running is as in ``saving``: there is something to lose now."""
        self._mode = Mode.SAVING

    def install(self) -> None:
        """Install the handlers; call it again after Ray has started, because Ray installs its own."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            self._before.setdefault(number, signal.getsignal(number))
            signal.signal(number, self._too_late if number == signal.SIGALRM else self._asked)

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._raise_stopped(error)

    def _raise_stopped(self, error: BaseException | None) -> None:
        """Ray's waits turn ``Stopped`` into a plain ``KeyboardInterrupt``; turn it back, unless it is of the second signal."""
        plain = isinstance(error, KeyboardInterrupt) and not isinstance(error, Stopped)
        if plain and self.asked is not None and not self._twice:
            raise Stopped(self.exit_code) from None

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        if self.asked is not None:
            self._twice = True
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)
        at_once = self._mode is Mode.AT_ONCE
        sys.stderr.write(f"\n{'stopping' if at_once else self.what}; once more to end at once\n")
        signal.setitimer(signal.ITIMER_REAL, LATEST_S, AGAIN_S)
        if at_once:
            raise Stopped(self.exit_code)

    def _too_late(self, _number: int, _frame: FrameType | None) -> None:
        if self._mode is not Mode.SAVING:
            raise Stopped(self.exit_code)
