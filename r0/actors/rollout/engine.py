"""A sampling engine: the calls that it answers, and the choice of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from r0.actors.rollout.settings import EngineSettings
from r0.records import Sampled, SampleRequest


class Engine(Protocol):
    """The calls of an engine. The four about weights are vLLM's own weight transfer API, and the Hugging Face engine's too."""

    max_num_seqs: int  # completions in work at one time

    def sample(self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool) -> list[Sampled]:
        """Complete every request, in order."""

    def submit(self, key: int, request: SampleRequest, temperature: float, max_new_tokens: int, greedy: bool) -> None:
        """Take a request in; ``step`` gives its completion back under ``key``, which no other request in work has."""

    def step(self) -> list[tuple[int, Sampled]]:
        """Work on what was submitted for a moment; gives what has become complete. Nothing in work: nothing happens."""

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        """Join the transfer group that ``info`` describes."""

    def sleep(self) -> None:
        """Give the card's memory back, where the settings say so; then there are no weights before the next weight update."""

    def start_weight_update(self) -> None:
        """Make ready for new weights."""

    def update_weights(self, info: dict[str, Any]) -> None:
        """Receive all weights."""

    def finish_weight_update(self, version: int) -> None:
        """Put the new weights to use as version ``version``, and forget what the old ones computed."""

    def version(self) -> int:
        """Version of the weights in use; 0 for the model as loaded, −1 without complete weights."""

    def close(self) -> None:
        """Release what the engine holds."""


def make_engine(settings: EngineSettings) -> Engine:
    """The engine that the settings name.

    Raises:
        UserError: it is not installed; the model is too short for prompt and completion.
    """
    if settings.engine == "hf":
        from r0.actors.rollout.hf_engine import HfEngine

        return HfEngine(settings)
    from r0.actors.rollout.vllm_engine import VllmEngine

    return VllmEngine(settings)
