"""Memory that goes back to the kernel and comes again: on a CPU this costs more than the arithmetic on it."""

from __future__ import annotations

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_blocks() -> None:
    """Let glibc keep up to 512 MB of freed memory in this process. Activations and loaded layers are allocated and freed over and
    over, and fresh pages from the kernel each time take longer than what is computed in them. Other C libraries go without.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 2**30)  # from the heap below this size
        library.mallopt(M_TRIM_THRESHOLD, 2**29)
