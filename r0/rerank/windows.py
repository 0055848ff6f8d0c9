"""Overlapping windows over a list, from its end to its top; documents can move up from one window to the next."""

from __future__ import annotations

from r0.errors import UserError


def windows(n: int, size: int, step: int) -> list[tuple[int, int]]:
    """The windows of a list of n documents as (start, stop), in the order of the questions.

    The first window ends at the list's end, each next one starts ``step`` earlier, and the last starts at the top and may be
    shorter. Every document is in at least one window. 100 documents with 20/10 give 9 windows.

    Raises:
        UserError: ``step`` is not smaller than ``size``, so windows would not overlap.
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
