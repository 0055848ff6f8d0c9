"""Allocator settings of a process: glibc on a CPU, torch's allocator on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_blocks() -> None:
    """Let glibc keep up to 512 MB of freed memory in this process. Activations and loaded layers are allocated and freed
    repeatedly, and getting new pages from the kernel each time takes longer than the computation. No effect with other C
    libraries.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 2**30)  # from the heap below this size
        library.mallopt(M_TRIM_THRESHOLD, 2**29)


def learner_variables(transfer: str) -> dict[str, str]:
    """Environment of a learner process on a GPU: expandable segments, because rows of different lengths fragment fixed segments.

    Not with ``ipc``: other processes need additional permissions to open such memory. A setting of the user has priority.
    """
    if transfer == "ipc" or any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")):
        return {}
    return {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
