"""How a process keeps freed memory: glibc on a CPU, torch's allocator on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_blocks() -> None:
    """Let glibc keep up to 512 MB of freed memory in this process. Activations and loaded layers are allocated and freed over and
    over, and fresh pages from the kernel each time take longer than what is computed in them. Other C libraries go without.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 2**30)  # from the heap below this size
        library.mallopt(M_TRIM_THRESHOLD, 2**29)


def learner_variables(transfer: str) -> dict[str, str]:
    """Environment of a learner process on a GPU: segments that grow, because rows differ in length and fixed segments leave gaps.

    Not with ``ipc``: other processes can open such memory only with further rights. A setting of the user's is left alone.
    """
    if transfer == "ipc" or any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")):
        return {}
    return {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
