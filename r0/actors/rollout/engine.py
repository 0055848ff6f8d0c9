"""The interface of sampling engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from r0.records import Sampled, SampleRequest


class Engine(Protocol):
    """The interface of an engine, which is a subclass. The four methods about weights are vLLM's weight transfer API."""

    max_num_seqs: int  # concurrent completions

    def sample(self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool) -> list[Sampled]:
        """Complete every request, in order. Raises the errors of ``stream``."""
        found = dict(self.stream(requests, temperature, max_new_tokens, greedy))
        return [found[index] for index in range(len(requests))]

    def stream(
        self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool
    ) -> Iterator[tuple[int, Sampled]]:
        """Complete every request, and give each with its index once it is complete. ``greedy`` takes the likeliest token; its
        log-probabilities have temperature 1.

        Raises:
            ValueError: a prompt leaves less than ``max_new_tokens`` tokens of the engine's length.
        """
        ...

    def submit(self, key: int, request: SampleRequest, temperature: float, max_new_tokens: int, greedy: bool) -> None:
        """Add a request; ``step`` returns its completion under ``key``, which must differ from those of all pending requests."""

    def step(self) -> list[tuple[int, Sampled]]:
        """Advance the pending requests by one step and return those that are complete; empty if none is pending."""

    def abort(self, keys: Sequence[int]) -> None:
        """Drop pending requests: ``step`` will not return them. Keys that are not pending are ignored."""

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        """Join the transfer group that ``info`` describes."""

    def sleep(self) -> None:
        """Release the card's memory if the settings say so; then there are no weights until the next weight update."""

    def start_weight_update(self) -> None:
        """Prepare for new weights."""

    def update_weights(self, info: dict[str, Any]) -> None:
        """Receive all weights."""

    def finish_weight_update(self, version: int) -> None:
        """Activate the new weights as version ``version``, and drop caches of the old ones."""

    def received(self) -> str:
        """The digest of the weights that came with the newest update (see ``sync.digest``)."""

    def version(self) -> int:
        """Version of the active weights; 0 for the model as loaded, −1 without complete weights."""

    def close(self) -> None:
        """Release the engine's memory."""
