"""A deadline for Python code in this process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

AGAIN_S = 1.0  # code may catch everything, so the signal comes back


class DeadlineExceeded(BaseException):
    """The deadline is over. No ``Exception``: the code that is interrupted should not handle it."""


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Interrupt the block after ``seconds``; main thread only, elsewhere there is no deadline.

    Python code is interrupted between two instructions, native code not before it returns.

    Raises:
        DeadlineExceeded: the block took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise DeadlineExceeded

    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
