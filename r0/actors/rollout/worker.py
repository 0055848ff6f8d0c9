"""Sampling workers: a plain class around an engine, and the group that distributes requests to the workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r0.actors.deadline import Deadline
from r0.actors.pool import Pool
from r0.actors.restarts import Restarts
from r0.actors.rollout.engine import Engine, make_engine
from r0.actors.rollout.settings import EngineSettings
from r0.errors import RunFailed, reason
from r0.process.faults import reached
from r0.process.spans import Traced, span
from r0.records import Sampled, SampleRequest

logger = logging.getLogger(__name__)

PING_S = 30.0  # seconds in which a worker that is not at work answers


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
        if self._engine.version() < 0:
            raise RuntimeError(
                f"rollout worker {self.index}: it sleeps, or its weights are incomplete after a failed sync; "
                "it can sample after the next sync"
            )
        reached("rollout.sample")
        with span("rollout", "sample", requests=len(requests)) as sampling:
            sampled = self._engine.sample(requests, temperature, max_new_tokens, greedy)
            sampling.add(tokens=sum(len(one.token_ids) for one in sampled))
        return sampled

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


class RolloutsLost(RunFailed):
    """All rollout workers failed while the learner changed the weights that they sampled with."""


class RolloutGroup:
    """The workers of the rollout role. One that dies, hangs or fails is started again, and its requests are sampled again: seeds
    are keyed, so the samples are the same.

    Args:
        pool: of ``RolloutWorker`` (plain objects or Ray actors).
        deadline_s: of every call, in seconds; of sampling less, once its time is known (``Deadline``).
        start_deadline_s: in which a worker that is started again has to be ready, in seconds.
        restarts: how often that may happen; None: never.

    Attributes:
        give_weights: hands the current weights to all workers after some were started again, and returns those that failed
            meanwhile; None where the weights of the model folder are the current ones.
        lost: workers that failed while no weights could be given, with the error; ``restart`` them when that is possible again.
    """

    def __init__(self, pool: Pool, deadline_s: float, start_deadline_s: float = 600.0, restarts: Restarts | None = None):
        self._pool = pool
        self._deadline_s = deadline_s
        self._start_deadline_s = start_deadline_s
        self._restarts = restarts or Restarts(most=0)
        self.give_weights: Callable[[], dict[int, Exception]] | None = None
        self.lost: dict[int, Exception] = {}
        self._sampling = Deadline(deadline_s)

    @property
    def workers(self) -> list[Any]:
        """The workers, for the weight sync."""
        return self._pool.workers

    def versions(self) -> list[int]:
        """Weight version of every worker."""
        return self._pool.all("version", deadline_s=self._deadline_s)

    def received(self) -> list[str]:
        """For every worker the digest of the weights that came with its newest update."""
        return self._pool.all("received", deadline_s=self._deadline_s)

    def sleep(self) -> None:
        """Release the memory of every engine's card until the next weight update, which detects workers that failed."""
        answers = self._pool.attempt_some("sleep", dict.fromkeys(range(len(self._pool)), ()), self._deadline_s)
        for index, error in answers.items():
            if isinstance(error, Exception):
                logger.warning("rollout worker %d does not sleep: %s", index, reason(error), exc_info=_unexpected(error))

    def failed(self) -> dict[int, Exception]:
        """The workers that do not answer or have incomplete weights, with the error: a failed update cannot be repeated on the
        same engine."""
        deadline_s = min(PING_S, self._deadline_s)
        versions = self._pool.attempt_some("version", dict.fromkeys(range(len(self._pool)), ()), deadline_s)
        incomplete = {index: RuntimeError("its weights are incomplete") for index, version in versions.items() if version == -1}
        return incomplete | {index: answer for index, answer in versions.items() if isinstance(answer, Exception)}

    def restart(self, failed: Mapping[int, Exception], give_weights: bool = True) -> None:
        """Restart the workers that failed, and those in ``lost``, until all have the current weights (or, without
        ``give_weights``, those of the model folder).

        Raises:
            RunFailed: workers failed too often.
        """
        waiting, self.lost = {**self.lost, **failed}, {}
        while waiting:
            self._restarts.count(next(iter(waiting.values())))
            for index, error in waiting.items():
                logger.warning("rollout worker %d is started again: %s", index, reason(error), exc_info=_unexpected(error))
                self._pool.replace(index)
            started = self._pool.attempt_some("start", dict.fromkeys(waiting, ()), self._start_deadline_s)
            waiting = {index: answer for index, answer in started.items() if isinstance(answer, Exception)}
            if not waiting and give_weights and self.give_weights is not None:
                waiting = self.give_weights()

    def sample(
        self,
        requests: Sequence[SampleRequest],
        temperature: float,
        max_new_tokens: int,
        greedy: bool = False,
        leave: Callable[[], bool] | None = None,
    ) -> list[Sampled]:
        """Complete every request, in order, with one call per worker; requests with the same prompt go to the same worker.

        Args:
            leave: given while the learner updates, so that no worker can be given weights: the share of one that fails goes to
                the others. True once the samples are not wanted any more.

        Raises:
            RuntimeError: workers hold different weight versions.
            RunFailed: workers died, hung or failed too often.
            RolloutsLost: all failed while the learner updates.
            CallLeft: ``leave()`` is true; the workers still work on their shares.
        """
        waiting = dict(enumerate(assign_requests(requests, len(self._pool), max_new_tokens)))
        completed: list[Sampled | None] = [None] * len(requests)
        while waiting:
            homes = self._homes(waiting)
            shares = {worker: waiting[home] for worker, home in homes.items()}
            arguments = {w: ([requests[i] for i in share], temperature, max_new_tokens, greedy) for w, share in shares.items()}
            with self._sampling.call(len(requests) * max_new_tokens) as deadline_s:
                results = self._pool.attempt_some("sample", arguments, deadline_s, leave)
            failed = {worker: result for worker, result in results.items() if isinstance(result, Exception)}
            for worker in shares.keys() - failed.keys():
                for i, sampled in zip(shares[worker], results[worker], strict=True):
                    completed[i] = sampled
                del waiting[homes[worker]]
            if leave is None:
                self.restart(failed)
            else:
                self._lose(failed)
        done = [sampled for sampled in completed if sampled is not None]
        if len(versions := {sampled.version for sampled in done}) > 1:
            raise RuntimeError(f"rollout workers sampled with different weight versions: {sorted(versions)}")
        return done

    def _homes(self, waiting: Mapping[int, Any]) -> dict[int, int]:
        """The worker for each share, named by its usual worker, its home. Another one takes the whole share of one that is lost,
        once it has done its own: the numbers of a sample may depend on those sampled beside it."""
        free = [worker for worker in range(len(self._pool)) if worker not in self.lost and worker not in waiting]
        orphans = [home for home in waiting if home in self.lost]
        return {home: home for home in waiting if home not in self.lost} | dict(zip(free, orphans, strict=False))

    def _lose(self, failed: Mapping[int, Exception]) -> None:
        for index, error in failed.items():
            logger.warning("rollout worker %d is lost for this step: %s", index, reason(error), exc_info=_unexpected(error))
        self.lost |= failed
        if len(self.lost) >= len(self._pool):  # a pool that was closed has no workers
            raise RolloutsLost(f"no rollout worker is left to sample the next step: {reason(next(iter(self.lost.values())))}")


def _unexpected(error: Exception) -> Exception | None:
    """The error whose traceback is wanted: not that of a process that died or hung."""
    return None if isinstance(error, RunFailed) else error


def assign_requests(requests: Sequence[SampleRequest], workers: int, max_new_tokens: int) -> list[list[int]]:
    """Indices of the requests of each worker; empty shares are omitted.

    Adjacent requests with the same prompt stay together, because they share its prefix. Such a block goes to the worker with the
    fewest tokens so far, larger blocks first. The assignment does not change results: each request has its own seed.
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
