"""The buckets of a weight transfer: which parameter lies where. Sender and receivers compute the same from the same list."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

ALIGNMENT = 64  # bytes; parameters start at multiples, so that views of any dtype are allowed and copies are fast


@dataclass(frozen=True)
class Entry:
    """A parameter and its position in a bucket, in bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """The parameter as a view of the bucket's bytes."""
        return flat[self.offset : self.offset + self.nbytes].view(self.dtype).view(self.shape)


def make_buckets(
    names: Sequence[str], dtypes: Sequence[str], shapes: Sequence[Sequence[int]], bucket_bytes: int
) -> list[list[Entry]]:
    """Split a list of parameters into buckets. Sender and receivers call it with the same arguments, so no message is needed."""
    buckets: list[list[Entry]] = []
    end = 0
    for name, dtype_name, shape in zip(names, dtypes, shapes, strict=True):
        dtype: torch.dtype = getattr(torch, dtype_name)
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if not buckets or end + nbytes > bucket_bytes:
            buckets.append([])
            end = 0
        buckets[-1].append(Entry(name, dtype, tuple(shape), end, nbytes))
        end = -(-(end + nbytes) // ALIGNMENT) * ALIGNMENT
    return buckets


def size(bucket: Sequence[Entry]) -> int:
    """Bytes of a bucket."""
    return bucket[-1].offset + bucket[-1].nbytes


def largest_slot(buckets: Sequence[Sequence[Entry]], bucket_bytes: int) -> int:
    """Bytes of a ring's slot: the size of the largest bucket, at most the limit (a larger parameter is sent in pieces)."""
    return -(-min(bucket_bytes, max(size(bucket) for bucket in buckets)) // mmap.PAGESIZE) * mmap.PAGESIZE
