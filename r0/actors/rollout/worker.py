"""Sampling workers: a plain class around an engine, and the group of them that deals out requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r0.actors.pool import Pool
from r0.actors.rollout.engine import Engine, make_engine
from r0.actors.rollout.settings import EngineSettings
from r0.records import Sampled, SampleRequest


class RolloutWorker:
    """One sampling engine.

    Args:
        settings: of the engine.
        index: number of the worker.

    Raises:
        UserError: the engine is not installed; the model is too short for prompt and completion.
    """

    def __init__(self, settings: EngineSettings, index: int = 0):
        self.index = index
        self._engine: Engine = make_engine(settings)

    def sample(
        self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool = False
    ) -> list[Sampled]:
        """Complete every request, in order.

        Args:
            temperature: logits are divided by it; log-probabilities are of that distribution, in nats.
            greedy: take the likeliest token instead.

        Raises:
            RuntimeError: the worker's weights are incomplete, or it sleeps.
        """
        if self._engine.version() < 0:
            raise RuntimeError(
                f"rollout worker {self.index}: it sleeps, or its weights are incomplete after a failed sync; "
                "it can sample after the next sync"
            )
        return self._engine.sample(requests, temperature, max_new_tokens, greedy)

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        """Join the transfer group that ``info`` describes."""
        self._engine.init_weight_transfer_engine(info)

    def sleep(self) -> None:
        """Give the card's memory back until the next weight update, where the settings say so."""
        self._engine.sleep()

    def start_weight_update(self) -> None:
        """Make ready for new weights."""
        self._engine.start_weight_update()

    def update_weights(self, info: dict[str, Any]) -> None:
        """Receive all weights."""
        self._engine.update_weights(info)

    def finish_weight_update(self, version: int) -> None:
        """Put the new weights to use as version ``version``."""
        self._engine.finish_weight_update(version)

    def version(self) -> int:
        """Version of the weights in use; 0 for the model as loaded, −1 while incomplete."""
        return self._engine.version()

    def close(self) -> None:
        """Release what the engine holds."""
        self._engine.close()


class RolloutGroup:
    """The workers of the rollout role. Every call has the deadline ``deadline_s``, in seconds."""

    def __init__(self, pool: Pool, deadline_s: float):
        self._pool = pool
        self._deadline_s = deadline_s

    @property
    def workers(self) -> list[Any]:
        """The workers, for the weight sync."""
        return self._pool.workers

    def versions(self) -> list[int]:
        """Weight version of every worker."""
        return self._pool.all("version", deadline_s=self._deadline_s)

    def sleep(self) -> None:
        """Let every engine give its card's memory back until the next weight update."""
        self._pool.all("sleep", deadline_s=self._deadline_s)

    def sample(
        self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool = False
    ) -> list[Sampled]:
        """Complete every request, in order: one call a worker, the requests of a prompt together.

        Raises:
            RuntimeError: workers hold different weight versions.
            RoleTimeout, RoleDied: a worker is late or gone.
        """
        shares = assign_requests(requests, len(self._pool), max_new_tokens)
        arguments = [([requests[i] for i in share], temperature, max_new_tokens, greedy) for share in shares]
        results = self._pool.each("sample", arguments, self._deadline_s)
        completed: list[Sampled | None] = [None] * len(requests)
        for share, result in zip(shares, results, strict=True):
            for i, sampled in zip(share, result, strict=True):
                completed[i] = sampled
        done = [sampled for sampled in completed if sampled is not None]
        if len(versions := {sampled.version for sampled in done}) > 1:
            raise RuntimeError(f"rollout workers sampled with different weight versions: {sorted(versions)}")
        return done


def assign_requests(requests: Sequence[SampleRequest], workers: int, max_new_tokens: int) -> list[list[int]]:
    """Positions of the requests of each worker; empty shares are left out.

    Neighbours with the same prompt stay together (they share its prefix). A block goes to the worker with the fewest tokens so
    far, larger blocks first. Who samples what changes nothing: seeds are addressed.
    """
    blocks: list[list[int]] = []
    for i, request in enumerate(requests):
        if i and requests[i - 1].prompt_ids == request.prompt_ids:
            blocks[-1].append(i)
        else:
            blocks.append([i])
    cost = [len(requests[block[0]].prompt_ids) + len(block) * max_new_tokens for block in blocks]
    shares: list[list[int]] = [[] for _ in range(workers)]
    load = [0] * workers
    for b in sorted(range(len(blocks)), key=lambda b: (-cost[b], b)):
        least = min(range(workers), key=lambda w: (load[w], w))
        shares[least] += blocks[b]
        load[least] += cost[b]
    return [sorted(share) for share in shares if share]
