"""A sampling worker: a plain class around an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from r0.actors.calls import end_quietly
from r0.actors.rollout.engine import Engine
from r0.actors.rollout.engines import make_engine
from r0.actors.rollout.settings import EngineSettings
from r0.process.faults import reached
from r0.process.spans import Traced, span
from r0.records import Completions, Sampled, SampleRequest


class RolloutWorker(Traced):
    """A worker with one sampling engine.

    Args:
        settings: of the engine.
        index: of the worker.

    Raises:
        UserError: the engine is not installed, or the model has too few positions for prompt and completion.
    """

    def __init__(self, settings: EngineSettings, index: int = 0):
        self.index = index
        self._engine: Engine = make_engine(settings)

    def sample(
        self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool = False
    ) -> list[Sampled]:
        """Complete every request, in order.

        Args:
            temperature: divides the logits; log-probabilities are those of the resulting distribution, in nats.
            greedy: take the likeliest token instead.

        Raises:
            RuntimeError: the worker sleeps, or its weights are incomplete.
        """
        found = dict(self._stream(requests, temperature, max_new_tokens, greedy))
        return [found[index] for index in range(len(requests))]

    def stream(
        self, groups: Sequence[Sequence[SampleRequest]], temperature: float, max_new_tokens: int, greedy: bool = False
    ) -> Iterator[Completions | tuple[int, int]]:
        """Complete the requests of every group in one running batch. Of each group, once it is complete, gives two things: its
        ``Completions``, and then its index and weight version. Raises the errors of ``sample``.
        """
        starts = list(accumulate(map(len, groups), initial=0))
        home = [g for g, group in enumerate(groups) for _ in group]
        found: list[dict[int, Sampled]] = [{} for _ in groups]
        for i, sampled in self._stream([one for group in groups for one in group], temperature, max_new_tokens, greedy):
            g = home[i]
            found[g][i - starts[g]] = sampled
            if len(found[g]) == len(groups[g]):
                yield Completions.of([found[g].pop(sample) for sample in range(len(groups[g]))])
                yield g, sampled.version
                reached("rollout.group")

    def _stream(
        self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool
    ) -> Iterator[tuple[int, Sampled]]:
        if self._engine.version() < 0:
            raise RuntimeError(
                f"rollout worker {self.index}: it sleeps, or its weights are incomplete after a failed sync; "
                "it can sample after the next sync"
            )
        reached("rollout.sample")
        tokens = 0
        with span("rollout", "sample", requests=len(requests)) as sampling:
            for i, sampled in self._engine.stream(requests, temperature, max_new_tokens, greedy):
                tokens += len(sampled.token_ids)
                yield i, sampled
            sampling.add(tokens=tokens)

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        """Join the transfer group described by ``info``."""
        self._engine.init_weight_transfer_engine(info)

    def sleep(self) -> None:
        """Release the card's memory until the next weight update, if the settings say so."""
        with span("rollout", "sleep"):
            self._engine.sleep()

    def start_weight_update(self) -> None:
        """Prepare for new weights."""
        with span("rollout", "wake"):
            self._engine.start_weight_update()

    def update_weights(self, info: dict[str, Any]) -> None:
        """Receive all weights."""
        reached("rollout.update")
        with span("rollout", "receive weights"):
            self._engine.update_weights(info)

    def finish_weight_update(self, version: int) -> None:
        """Activate the new weights as version ``version``."""
        with span("rollout", "activate weights"):
            self._engine.finish_weight_update(version)

    def received(self) -> str:
        """The digest of the weights that came with the newest update."""
        return self._engine.received()

    def version(self) -> int:
        """Version of the active weights; 0 for the model as loaded, −1 while incomplete."""
        return self._engine.version()

    def close(self) -> None:
        """Release the engine's memory."""
        self._engine.close()
        end_quietly()
