"""The parts in the order in which they run, their claims, what they need installed, and the seconds each may take."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LEARNER = ("numpy", "torch", "transformers", "peft", "deepspeed", "pydantic", "yaml")
RUNS = (*LEARNER, "accelerate", "jinja2")


@dataclass(frozen=True)
class Part:
    """``function`` is ``module:function`` in this package, called with a Setting and a Report in a process of its own."""

    name: str
    function: str
    claims: Mapping[str, str]
    needs: tuple[str, ...]  # modules
    seconds: float  # ended after these; about three times what an H100-class card should need

    def load(self) -> Callable:
        """The function."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(f"benchmarks.gpu_check_parts.{module}"), name)

    def missing(self) -> list[str]:
        """Modules that it needs and that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


_NEAR = "the dry run's estimate of a rank's peak memory is within 20 %"
PARTS = (
    Part("machine", "machine:facts", {"card": "torch computes on the card"}, ("torch", "transformers", "numpy"), 60),
    Part(
        "start",
        "updates:start",
        {
            "device": "a learner starts on the card when no device is named",
            "cudnn": "cuDNN's attention is off in a learner's process",
        },
        LEARNER,
        90,
    ),
    Part(
        "equal",
        "updates:equal",
        {
            "shared": "three updates in float32 with shared-prefix rows equal the CPU's",
            "padded": "three updates in float32 with padded rows equal the CPU's",
            "bf16": "three updates in bf16 are nearer to float32 than the start is",
        },
        LEARNER,
        120,
    ),
    Part("probe", "updates:probe", {"rows": "the learner chooses shared-prefix rows in bf16"}, LEARNER, 120),
    Part("ipc", "ipc:carry", {"carried": "CUDA IPC carries a buffer with an embedding to another process"}, ("torch",), 90),
    Part(
        "sync",
        "sync:weights",
        {
            "gap": "a sync between two processes closes the gap of engine and learner",
            "backend": "learner and engine on one card choose ipc",
        },
        (*RUNS, "ray", "vllm"),
        150,
    ),
    Part("grpo", "runs:grpo", {"step": "two GRPO steps with learner and engine on one card"}, (*RUNS, "ray", "vllm"), 180),
    Part(
        "sft",
        "runs:sft",
        {
            "card": "a supervised rank computes on the card, without cuDNN's attention",
            "learns": "supervised training lowers the loss on rows of unlike length",
        },
        RUNS,
        120,
    ),
    Part(
        "speed",
        "speed:updates",
        {
            "ragged": "ragged lengths reach 70 % of the rate of equal ones",
            "shared": "shared-prefix rows are faster than padded rows",
        },
        LEARNER,
        150,
    ),
    Part("memory", "memory:checkpointed", {"estimate": f"{_NEAR} (checkpointing, rows of 8,192)"}, LEARNER, 90),
    Part("memory-kept", "memory:kept", {"estimate": f"{_NEAR} (no checkpointing, rows of 8,192)"}, LEARNER, 90),
    Part("memory-long", "memory:long_rows", {"estimate": f"{_NEAR} (checkpointing, rows of 16,384)"}, LEARNER, 90),
)


def chosen(names: Sequence[str]) -> list[Part]:
    """The named parts, in their order; all for no names.

    Raises:
        ValueError: there is no such part.
    """
    known = [part.name for part in PARTS]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no part {name}; parts are {', '.join(known)}")
    return [part for part in PARTS if not names or part.name in names]


def absent(parts: Sequence[Part]) -> str:
    """One sentence about what is not installed and what is not tried for that; empty where nothing is missing."""
    lacking = {part.name: part.missing() for part in parts}
    modules = dict.fromkeys(module for found in lacking.values() for module in found)
    if not modules:
        return ""
    said = [f"{module} (for {', '.join(name for name, found in lacking.items() if module in found)})" for module in modules]
    return f"Not installed: {'; '.join(said)}. These parts are not tried."
