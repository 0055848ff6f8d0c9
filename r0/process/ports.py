"""A port for what listens a moment later."""

from __future__ import annotations

import contextlib
import random
import socket

PORTS = range(20_000, 30_000)


def free_port() -> int:
    """A port that is free now, below those that systems give to connections (from 32,768 on): one of them might take it first.

    Raises:
        OSError: a thousand of them are in use.
    """
    for port in random.sample(PORTS, 1_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise OSError(f"a thousand ports from {PORTS.start} to {PORTS.stop} are in use")
