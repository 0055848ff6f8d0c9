"""Ctrl-C and SIGTERM: the first asks the run to stop after the current step and save; the second ends it at once."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Self


class StopRequest:
    """Handles SIGINT and SIGTERM while its block runs (main thread only). ``asked`` is the first signal, or None; ``what`` is the
    message printed on the first signal."""

    def __init__(self, what: str = "stopping after this step, with a checkpoint") -> None:
        self.what = what
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __call__(self) -> bool:
        """Whether the run should stop."""
        return self.asked is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal, as in shells; 0 without a signal."""
        return 128 + self.asked if self.asked else 0

    def install(self) -> None:
        """Install the handlers; call it again after Ray has started, because Ray installs its own."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before.setdefault(number, signal.getsignal(number))
            signal.signal(number, self._asked)

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)
        sys.stderr.write(f"\n{self.what}; once more to end at once\n")
