"""The lock of a run directory: only one process at a time may write there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

from r0.errors import UserError
from r0.storage.files import writing

LOCK = ".lock"

log = logging.getLogger("r0")


def take_lock(path: Path) -> int | None:
    """Take an exclusive lock that ends with the process and is not inherited by child processes.

    Raises:
        UserError: another process holds it (the message names it), or the folder is not writable.
    """
    with writing(path / LOCK):
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise UserError(f"output: {path} is in use by {owner}; wait until it ends, or choose another output=") from None
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise UserError(f"output: cannot lock {path}: {error.strerror}; choose another output=") from None
        log.warning("%s: this file system does not support locks; make sure that only one run at a time writes there", path)
        return None
    with writing(path / LOCK):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


def release(lock: int | None) -> None:
    """Release the lock; None (no lock support) is ignored."""
    if lock is not None:
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
            os.close(lock)
