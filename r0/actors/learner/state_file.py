"""A learner rank's state in a safetensors file: tensors by dotted name, numbers in the header. Loading runs no code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

State = dict[str, Any]  # tensors and integers, in dicts and lists of any depth

NUMBERS = "numbers"  # key in the header's metadata


def write_state(path: Path, state: State) -> None:
    """Write ``state`` to ``path``.

    Raises:
        OSError: the file cannot be written.
    """
    leaves = dict(_leaves(state))
    tensors = {name: value.contiguous() for name, value in leaves.items() if isinstance(value, torch.Tensor)}
    numbers = {name: value for name, value in leaves.items() if name not in tensors}
    try:
        save_file(tensors, path, metadata={NUMBERS: json.dumps(numbers)})
    except SafetensorError as error:  # its message contains the system's error
        raise OSError(f"{path.name} cannot be written: {error}") from error


def read_state(path: Path) -> State:
    """The state that ``write_state`` wrote, with its tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with safe_open(path, framework="pt") as stream:
        numbers = json.loads(stream.metadata()[NUMBERS])
        leaves = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    return _lists(_nested(leaves | numbers))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _nested(leaves: Mapping[str, Any]) -> State:
    tree: State = {}
    for name, value in leaves.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _lists(tree: Any) -> Any:
    """Dicts whose keys are 0 … n − 1 become lists."""
    if not isinstance(tree, dict):
        return tree
    if set(tree) == {str(number) for number in range(len(tree))}:
        return [_lists(tree[str(number)]) for number in range(len(tree))]
    return {key: _lists(value) for key, value in tree.items()}
