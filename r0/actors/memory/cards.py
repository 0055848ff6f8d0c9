"""The GPUs of this machine and their memory, found without importing torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

MIB = 2**20
QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class CardInfo:
    """A GPU and its memory in bytes."""

    name: str
    total: int


def visible_cards() -> list[CardInfo]:
    """NVIDIA GPUs visible to this process (CUDA_VISIBLE_DEVICES), from nvidia-smi; empty if it fails."""
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse(answer, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse(answer: str, visible: str | None) -> list[CardInfo]:
    """The cards in the output of nvidia-smi; ``visible`` is CUDA_VISIBLE_DEVICES: indices or UUIDs, separated by commas."""
    every: dict[str, CardInfo] = {}
    for line in answer.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[3].isdigit():
            every[fields[0]] = every[fields[1]] = CardInfo(fields[2], int(fields[3]) * MIB)
    if visible is None:
        return [card for name, card in every.items() if name.isdigit()]
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return [card for wanted in names for name, card in every.items() if name == wanted or _abbreviates(wanted, name)]


def _abbreviates(wanted: str, name: str) -> bool:
    """Whether ``wanted`` is the beginning of the UUID ``name``."""
    return wanted.startswith("GPU-") and name != wanted and name.startswith(wanted)


def assumed_card(gigabytes: float) -> CardInfo:
    """A card of the size given by ``--gpu-memory``. 1 GB is 10⁹ bytes; cards sold with 24 GB have at least 24.1 × 10⁹ bytes."""
    return CardInfo(f"a card of {gigabytes:g} GB (--gpu-memory)", int(gigabytes * 1e9))
