"""A fingerprint of weights on their way: cheap, so that every sync can be checked on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from r0.actors.sync.transfer import ParamInfo, Weights

NOTHING = "0"
SAMPLES = 16  # elements of each tensor


class Digest:
    """Names, types, shapes and a few elements of the tensors that go through it, in any order.

    It says that these tensors were read here since the last ``take``.
    """

    def __init__(self) -> None:
        self._heads: list[str] = []
        self._elements: list[Tensor] = []

    def through(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The weights themselves, each noted as it is handed on."""
        for name, tensor in weights:
            self.add(name, tensor)
            yield name, tensor

    def add(self, name: str, tensor: Tensor) -> None:
        """Note a tensor; nothing waits for a GPU."""
        flat = tensor.detach().reshape(-1)
        self._heads.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
        self._elements.append(flat[:: max(1, len(flat) // SAMPLES)][:SAMPLES].to(torch.float32, copy=True))

    def take(self) -> str:
        """``value``, and a new beginning."""
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
    """A source of weights whose passes are noted in ``digest``."""

    def __init__(self, source: Weights):
        self._source = source
        self.digest = Digest()

    def metadata(self) -> Sequence[ParamInfo]:
        """See Weights."""
        return self._source.metadata()

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self.digest.through(self._source)
