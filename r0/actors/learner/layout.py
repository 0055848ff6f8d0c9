"""The position of each parameter in the flat tensors of a ZeRO stage, and conversion to other stages and numbers of ranks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from r0.actors.learner.state_file import State
from r0.errors import UserError


class Segment(NamedTuple):
    """``length`` elements of a parameter from ``start``, at position ``place`` of a flat tensor."""

    name: str
    start: int
    place: int
    length: int


Layout = list[list[Segment]]  # the segments of each flat tensor of a rank, in the order of ``zero.master_weights``


def layout(engine: Any, rank: int) -> Layout:
    """The layout of a rank's float32 weights, which is also that of its moments."""
    optimizer = engine.optimizer
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # ZeRO 3 splits each parameter
        return [_split_parameters(group, names, rank) for group in optimizer.fp16_groups]
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # ZeRO 1 and 2 split a group's parameters laid end to end
        sizes = [tensor.numel() for tensor in optimizer.single_partition_of_fp32_groups]
        groups, offsets = optimizer.round_robin_bit16_groups, optimizer.round_robin_bit16_offsets
    elif hasattr(optimizer, "fp32_groups_flat_partition"):  # so does ZeRO 1 with bf16
        sizes = [tensor.numel() for tensor in optimizer.fp32_groups_flat_partition]
        groups, offsets = optimizer.bf16_groups, [None] * len(sizes)
    else:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return [[Segment(names[id(parameter)], 0, 0, parameter.numel())] for parameter in parameters]
    return [
        _split_group(group, places, names, rank * size, size) for group, places, size in zip(groups, offsets, sizes, strict=True)
    ]


def _split_parameters(group: Sequence[Any], names: dict[int, str], rank: int) -> list[Segment]:
    found, place = [], 0
    for parameter in group:
        share = parameter.partition_numel()
        start = rank * share
        found.append(Segment(names[id(parameter)], start, place, max(0, min(share, parameter.ds_numel - start))))
        place += share
    return [segment for segment in found if segment.length]


def _split_group(
    group: Sequence[Any], places: Sequence[int] | None, names: dict[int, str], first: int, size: int
) -> list[Segment]:
    found, end = [], 0
    for index, parameter in enumerate(group):
        begin = end if places is None else places[index]
        end = begin + parameter.numel()
        start, stop = max(begin, first), min(end, first + size)
        if start < stop:
            found.append(Segment(names[id(parameter)], start - begin, start - first, stop - start))
    return found


def reshaped(states: Sequence[State], wanted: Layout, sizes: Sequence[int]) -> State:
    """The engine state of a rank whose flat tensors have the layout ``wanted`` and ``sizes``, from those of all ranks.

    Raises:
        UserError: they are of other parameters.
    """
    first = states[0].get("adam", [{}])[0]  # empty before a first step
    kinds = ["masters", *(name for name, value in first.items() if value.dim())]
    whole = {kind: _whole(states, kind) for kind in kinds}
    cut = {kind: [_cut(whole[kind], segments, size) for segments, size in zip(wanted, sizes, strict=True)] for kind in kinds}
    scalars = {name: value for name, value in first.items() if not value.dim()}  # the same for all parameters
    adam = [{**scalars, **{kind: cut[kind][index] for kind in kinds[1:]}} for index in range(len(sizes))]
    return {"masters": cut["masters"], "adam": adam, "steps": states[0]["steps"]}


def _whole(states: Sequence[State], kind: str) -> dict[str, torch.Tensor]:
    """The flattened values of every parameter, by name."""
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for state in states:
        tensors = state["masters"] if kind == "masters" else [each[kind] for each in state["adam"]]
        for tensor, segments in zip(tensors, json.loads(state["layout"]), strict=True):
            flat = tensor.reshape(-1)
            for name, start, place, length in segments:
                parts.setdefault(name, {})[start] = flat[place : place + length]
    return {name: torch.cat([found[start] for start in sorted(found)]) for name, found in parts.items()}


def _cut(whole: dict[str, torch.Tensor], segments: Sequence[Segment], size: int) -> torch.Tensor:
    flat = torch.zeros(size)
    for name, start, place, length in segments:
        if name not in whole or len(whole[name]) < start + length:
            raise UserError(f"the checkpoint has no parameter {name} of this size; resume with the model that it is of")
        flat[place : place + length] = whole[name][start : start + length]
    return flat
