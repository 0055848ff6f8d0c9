"""A cheap digest of weights, compared after every sync on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from r0.actors.sync.transfer import ParamInfo, Weights

NOTHING = "0"
SAMPLES = 16  # elements of each tensor


class Digest:
    """A digest of names, dtypes, shapes and a few elements of tensors, independent of their order.

    It says that these tensors were read here since the last ``take``.
    """

    def __init__(self) -> None:
        self._heads: list[str] = []
        self._elements: list[Tensor] = []

    def through(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights, and add each to the digest."""
        for name, tensor in weights:
            self.add(name, tensor)
            yield name, tensor

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor, without synchronizing with a GPU."""
        flat = tensor.detach().reshape(-1)
        self._heads.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
        self._elements.append(flat[:: max(1, len(flat) // SAMPLES)][:SAMPLES].to(torch.float32, copy=True))

    def __len__(self) -> int:
        """Tensors noted."""
        return len(self._heads)

    def take(self) -> str:
        """Return ``value`` and reset the digest."""
        found = self.value()
        self._heads, self._elements = [], []
        return found

    def value(self) -> str:
        """``<tensors>-<hash>``, or ``NOTHING``."""
        if not self._heads:
            return NOTHING
        whole = torch.cat(self._elements).cpu().numpy().tobytes()
        found, start = [], 0
        for head, elements in zip(self._heads, self._elements, strict=True):
            end = start + 4 * len(elements)
            found.append(head.encode() + whole[start:end])
            start = end
        return f"{len(found)}-{hashlib.blake2b(b''.join(sorted(found)), digest_size=8).hexdigest()}"


class Noted:
    """A source of weights whose iterations update ``digest``."""

    def __init__(self, source: Weights):
        self._source = source
        self.digest = Digest()

    def metadata(self) -> Sequence[ParamInfo]:
        """See Weights."""
        return self._source.metadata()

    def sent(self) -> str:
        """The digest of all weights, or ``NOTHING`` if not all that the source declares were asked for."""
        return self.digest.value() if len(self.digest) == len(self._source.metadata()) else NOTHING

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self.digest.through(self._source)
