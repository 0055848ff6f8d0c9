"""Weights in the format of checkpoint files, which differs from transformers' format in memory for some models.

While it loads, transformers stacks the experts of a layer into one parameter and renames others. Files and vLLM know the names
and shapes of the checkpoint. Both ways go through transformers' own rules, one group of parameters at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from r0.actors.sync.channels import TransferError


@dataclass(frozen=True, slots=True)
class ParamMeta:
    """Name in the checkpoint, dtype and shape of a tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters and the checkpoint tensors they are converted to: one each, unless transformers stacks or splits them."""

    own: tuple[str, ...]  # names in the model
    stored: tuple[ParamMeta, ...]


class CheckpointFormat:
    """The conversion between a transformers model's parameters and its checkpoint's tensors.

    Args:
        model: as ``from_pretrained`` made it, or from a configuration; adapters do not matter.
        parameters: name in the model (without adapters), type and shape of each, in the model's order.
    """

    def __init__(self, model: Any, parameters: Sequence[ParamMeta]):
        transforms = _transforms(model)
        self._backward = [transform.reverse_transform() for transform in deepcopy(transforms)[::-1]]
        self._forward = transforms
        self._shell: Any = None
        if transforms:
            with torch.device("meta"):  # some rules look at the shapes of whole parameters, which ZeRO-3 hides
                self._shell = type(model)(model.config)
        together: dict[str, list[ParamMeta]] = {}
        for each, (target, _) in zip(parameters, self._renamed([p.name for p in parameters], reverse=True), strict=True):
            together.setdefault(target, []).append(each)
        self.groups = [self._group(members) for members in together.values()]

    def to_checkpoint(self, group: Group, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors of ``group.stored`` from those of ``group.own``; views, if they are slices."""
        made = self._convert(dict(zip(group.own, tensors, strict=True)), reverse=True)
        return [made[meta.name] for meta in group.stored]

    def read(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The model's parameters, by their names in it, from those of a checkpoint in any order; each is valid until the next.

        Raises:
            TransferError: a tensor is unknown, comes twice or is of another shape; at the end, one did not come.
        """
        missing = {meta.name: (meta, group) for group in self.groups for meta in group.stored}
        waiting: dict[str, torch.Tensor] = {}  # of groups that are not complete
        for name, tensor in weights:
            meta, group = missing.pop(name, (None, None))
            if meta is None or group is None or meta.shape != tuple(tensor.shape):
                raise TransferError(f"weight transfer: the model has no parameter {name} of shape {tuple(tensor.shape)}")
            waiting[name] = tensor if len(group.stored) == 1 else tensor.clone()  # valid until the next one is asked for
            if not any(each.name in missing for each in group.stored):
                yield from self._convert({each.name: waiting.pop(each.name) for each in group.stored}, reverse=False).items()
        if missing:
            raise TransferError(f"weight transfer: {len(missing)} parameters were not sent, the first is {min(missing)}")

    def _group(self, members: list[ParamMeta]) -> Group:
        empty = {each.name: torch.empty(each.shape, dtype=each.dtype, device="meta") for each in members}
        made = self._convert(empty, reverse=True)
        return Group(tuple(empty), tuple(ParamMeta(name, t.dtype, tuple(t.shape)) for name, t in made.items()))

    def _renamed(self, names: Sequence[str], reverse: bool) -> list[tuple[str, str | None]]:
        """The target of each of ``names``, and the pattern of its converter (None: at most renamed)."""
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        transforms = self._backward if reverse else self._forward
        renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
        converters = [each for each in transforms if isinstance(each, WeightConverter)]
        return [rename_source_key(name, renamings, converters, reverse=reverse) for name in names]

    def _convert(self, tensors: dict[str, torch.Tensor], reverse: bool) -> dict[str, torch.Tensor]:
        """Apply transformers' conversion for saving (``reverse``) or loading to some complete groups."""
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        transforms = self._backward if reverse else self._forward
        by_pattern = {p: one for one in transforms if isinstance(one, WeightConverter) for p in one.source_patterns}
        work: dict[str, Any] = {}
        for (name, tensor), (target, pattern) in zip(tensors.items(), self._renamed(list(tensors), reverse), strict=True):
            if target not in work:
                work[target] = WeightRenaming(name, target) if pattern is None else deepcopy(by_pattern[pattern])
            work[target].add_tensor(target, name, pattern or name, tensor)
        made: dict[str, torch.Tensor] = {}
        for target, one in work.items():
            found = one.convert(target, model=self._shell, config=getattr(self._shell, "config", None))
            made |= {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in found.items()}
        return made


def _transforms(model: Any) -> list[Any]:
    """The conversion rules with which ``model`` was loaded; for a model created from a configuration, those of its class."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    used = getattr(model, "_weight_conversions", None)
    if used is not None:
        return list(used)
    rules = get_model_conversion_mapping(model, add_legacy=False)
    return [each for each in rules if not isinstance(each, PrefixChange)]  # nothing says whether a checkpoint has the prefix
