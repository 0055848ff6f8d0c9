"""The driver's interface to all sampling workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from r0.actors.deadline import Deadline, Silence
from r0.actors.pool import Pool
from r0.actors.restarts import Restarts
from r0.errors import RunFailed, reason
from r0.process.objects import fetch
from r0.records import Address, Sampled, SampleRequest

logger = logging.getLogger(__name__)

PING_S = 30.0  # seconds in which a worker that is not at work answers


class RolloutsLost(RunFailed):
    """All rollout workers failed while the learner changed the weights that they sampled with."""


class RolloutGroup:
    """The workers of the rollout role. One that dies, hangs or fails is started again, and its requests are sampled again: seeds
    are keyed, so the samples are the same.

    Args:
        pool: of ``RolloutWorker`` (plain objects or Ray actors).
        deadline_s: of every call, in seconds. In sampling it is the time in which a worker has to complete a group, which
            follows what was measured once something was (``Deadline``).
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
        self.slowest_s = 0.0
        self._silence = Deadline(deadline_s)

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

    def stream(
        self,
        groups: Sequence[Sequence[SampleRequest]],
        temperature: float,
        max_new_tokens: int,
        greedy: bool = False,
        leave: Callable[[], bool] | None = None,
    ) -> Iterator[tuple[int, Address]]:
        """Complete the requests of every group, with one call per worker. Gives the index of each group and the address of its
        ``Completions`` as soon as they are complete; which comes first is a matter of time.

        The whole share of a worker that fails is sampled again: the numbers of a sample may depend on those beside it. What it
        had completed is given again, since the machine that holds it may be gone too; the last address of a group counts.

        Args:
            leave: given while the learner updates, so that no worker can be given weights: the share of one that fails goes to
                the others. True once the samples are not wanted any more.

        Raises:
            RuntimeError: workers hold different weight versions.
            RunFailed: workers died, hung or failed too often.
            RolloutsLost: all failed while the learner updates.
            CallLeft: ``leave()`` is true; the workers still work on their shares.
        """
        waiting = dict(enumerate(assign_groups(groups, len(self._pool), max_new_tokens)))
        given: set[int] = set()
        versions: set[int] = set()
        work = sum(map(len, groups)) * max_new_tokens
        began = time.monotonic()
        while waiting:
            homes = self._homes(waiting)
            shares = {worker: waiting[home] for worker, home in homes.items()}
            arguments = {w: ([groups[i] for i in share], temperature, max_new_tokens, greedy) for w, share in shares.items()}
            failed: dict[int, Exception] = {}
            silence = Silence()
            for worker, found in self._pool.stream_some("stream", arguments, self._silence.seconds(work), leave):
                if isinstance(found, Exception):
                    failed[worker] = found
                    continue
                silence.heard(worker)
                address, (place, version) = found
                group = shares[worker][place]
                versions.add(version)
                given.add(group)
                yield group, address
            self._silence.measured(silence.longest_s, work)
            for worker, share in shares.items():
                if worker not in failed and not given.issuperset(share):
                    failed[worker] = RuntimeError("it ended without all of its completions")
                if worker in failed:
                    given.difference_update(share)
                else:
                    del waiting[homes[worker]]
            if leave is None:
                self.restart(failed)
            else:
                self._lose(failed)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        if len(versions) > 1:
            raise RuntimeError(f"rollout workers sampled with different weight versions: {sorted(versions)}")

    def sample(
        self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool = False
    ) -> list[Sampled]:
        """Complete every request and fetch the completions, in order; adjacent requests with the same prompt go to the same
        worker. Raises the errors of ``stream``."""
        groups = [list(group) for _, group in groupby(range(len(requests)), key=lambda i: requests[i].prompt_ids)]
        shares = assign_groups([[requests[i] for i in group] for group in groups], len(self._pool), max_new_tokens)
        wanted = [[i for g in share for i in groups[g]] for share in shares]
        completed: dict[int, Sampled] = {}
        asked = [[requests[i] for i in share] for share in wanted]
        for share, address in self.stream(asked, temperature, max_new_tokens, greedy):
            completed |= zip(wanted[share], fetch([address])[0].sampled(), strict=True)
        return [completed[i] for i in range(len(requests))]

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


def assign_groups(groups: Sequence[Sequence[SampleRequest]], workers: int, max_new_tokens: int) -> list[list[int]]:
    """Indices of the groups of each worker; empty shares are omitted.

    A group has one prompt and stays together, because its requests share the prompt's prefix. It goes to the worker with the
    fewest tokens so far, larger groups first. Each request has its own seed.
    """
    cost = [len(group[0].prompt_ids) + len(group) * max_new_tokens for group in groups]
    shares: list[list[int]] = [[] for _ in range(workers)]
    load = [0] * workers
    for g in sorted(range(len(groups)), key=lambda g: (-cost[g], g)):
        least = min(range(workers), key=lambda w: (load[w], w))
        shares[least].append(g)
        load[least] += cost[g]
    return [sorted(share) for share in shares if share]
