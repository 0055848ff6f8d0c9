"""The store at which the processes of a group meet, on one interface: torch's own listens on all of them."""

from __future__ import annotations

import socket
from datetime import timedelta

from torch.distributed import TCPStore


def hosted_store(host: str, port: int, timeout_s: float, world: int | None = None) -> TCPStore:
    """The store of the process that the others connect to, on ``host`` alone; port 0: a free one (``.port``)."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError:  # not an address of this machine, but of what forwards to it
        listener.close()
        return TCPStore(host, port, world, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))
    port = listener.getsockname()[1]
    return TCPStore(
        host,
        port,
        world,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),
    )


def joined_store(host: str, port: int, timeout_s: float, world: int | None = None) -> TCPStore:
    """The same store, in the other processes."""
    return TCPStore(host, port, world, is_master=False, timeout=timedelta(seconds=timeout_s))
