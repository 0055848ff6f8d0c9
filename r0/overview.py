"""The screen that ``r0`` alone prints: the commands by what they are for, and three examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

GROUPS = {
    "train": "reinforcement learning, stage by stage",
    "supervise": "learning from labelled rows",
    "teach": "what a model learns from",
    "rank": "using a model",
    "look": "reading what was made",
}

EXAMPLES = (
    ("r0 demo", "train on this machine, no GPU needed"),
    ("r0 stage_a configs/stage_a_grpo.yaml model=Qwen/Qwen3-0.6B data=rows.jsonl --dry-run", "what would run, and where"),
    ("r0 rerank data=beir/nq run=bm25.trec model=runs/one/model", "order candidates with a trained model"),
)


class Listed(Protocol):
    """What is shown of a command."""

    @property
    def summary(self) -> str:
        """What it does."""

    @property
    def group(self) -> str:
        """One of ``GROUPS``."""


def overview(commands: Mapping[str, Listed]) -> str:
    """The screen of these commands."""
    width = max(map(len, commands))
    lines = ["usage: r0 COMMAND [CONFIG.yaml] [key=value …] [--dry-run]"]
    for group, meaning in GROUPS.items():
        lines += ["", f"{group}: {meaning}"]
        lines += [f"  {name:<{width}}  {command.summary}" for name, command in commands.items() if command.group == group]
    lines += ["", "examples:"]
    lines += [line for example, meaning in EXAMPLES for line in (f"  {example}", f"      {meaning}")]
    return "\n".join([*lines, "", "r0 COMMAND --help lists a command's keys; --dry-run says what would run, and where."])
