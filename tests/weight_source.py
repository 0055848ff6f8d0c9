"""A transformers model as a weight source, for tests of the sync without a learner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Meta:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class ModelWeights:
    """All parameters under all their names: a tied head is there twice, as the learner sends it."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype | None = None):
        self.model = model
        self._dtype = dtype

    def metadata(self) -> list[Meta]:
        return [Meta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            yield name, parameter.detach().to(self._dtype or parameter.dtype)
