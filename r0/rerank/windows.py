"""Windows over a list, from its back to its front: what stands in one can climb into the next."""

from __future__ import annotations

from r0.errors import UserError


def windows(n: int, size: int, step: int) -> list[tuple[int, int]]:
    """The windows of a list of n documents as (start, stop), in the order in which they are asked.

    The first ends at the list's end, each other ``step`` before the one it follows, and the last starts at the head; that one is
    shorter where the list's length says so. Every document is in at least one. 100 documents at 20/10 are 9 windows.

    Raises:
        UserError: ``step`` is not smaller than ``size``, so that windows would not overlap and nothing could climb.
    """
    if not 0 < step < size:
        raise UserError(f"step={step} must be from 1 to {size - 1}, so that windows of {size} overlap; {size // 2} is usual")
    found: list[tuple[int, int]] = []
    stop = n
    while stop > 0:
        start = max(0, stop - size)
        found.append((start, stop))
        if start == 0:
            break
        stop -= step
    return found
