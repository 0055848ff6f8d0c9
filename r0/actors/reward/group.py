"""The driver's interface to all reward workers.

A reward may be third-party code. ``CheckedReward`` catches exceptions and invalid results. A reward can also hang or end its
process, so the completions of a prompt have a deadline, and a worker that exceeds it or dies is killed and replaced. What it had
not scored is scored again, one completion per call, to find the one that causes it. Without Ray (inline) a signal interrupts a
reward that hangs, but the run does not survive one that ends the process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from r0.actors.addresses import Begun
from r0.actors.calls import RoleDied, RoleTimeout, call_each
from r0.actors.pool import Pool
from r0.actors.reward.packing import pack
from r0.actors.reward.worker import Failed
from r0.config.sections import RewardBase
from r0.errors import UserError
from r0.process.objects import fetch, put
from r0.records import Address, Prompt, Score, ScoredGroup, Task

logger = logging.getLogger(__name__)

Outcomes: TypeAlias = tuple[Sequence[Score | Failed], Address]
"""Of the completions of a prompt, and the address of their texts."""


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """A prompt whose completions are sampled. ``group`` is its index in the batch."""

    task: Task
    group: int
    prompt: Prompt
    size: int  # number of completions
    completions: Address


class RewardGroup:
    """The reward workers together.

    Args:
        pool: of ``RewardWorker`` (plain objects or Ray actors).
        section: name of the reward, deadline of the completions of a prompt, and the value of those that it cannot score.
        start_deadline_s: seconds for a worker to become ready, at first and after a replacement.

    Attributes:
        restarts: workers replaced so far (a metric).
    """

    def __init__(self, pool: Pool, section: RewardBase, start_deadline_s: float = 600.0):
        self._pool = pool
        self._section = section
        self._start_deadline_s = start_deadline_s
        self._started = False
        self._names: frozenset[str] | None = None  # of components, over all workers
        self.restarts = 0

    def ready(self) -> None:
        """Wait until every worker has started. The first batch waits too, and its deadline begins afterwards.

        Raises:
            RoleTimeout, RoleDied: a worker did not start.
        """
        self._pool.all("ping", deadline_s=self._start_deadline_s)
        self._started = True

    def batch(self) -> RewardBatch:
        """A batch without groups yet.

        Raises:
            RoleTimeout, RoleDied: a worker did not start.
        """
        if not self._started:
            self.ready()
        return RewardBatch(self, len(self._pool), self._section.deadline_s)

    def begin(self, index: int, group: SampledGroup) -> Begun:
        """Give a group to worker ``index``."""
        return self._pool.begin(index, "score", (group.task, group.prompt, group.completions))

    def pack(self, step: int, groups: Sequence[ScoredGroup], texts: Mapping[tuple[int, ...], str]) -> Iterator[bytes]:
        """The rollouts of a step as they are stored; see ``packing.pack``."""
        return pack(self._pool, step, groups, texts)

    def one_by_one(self, index: int, groups: Sequence[SampledGroup]) -> list[Outcomes]:
        """Score again what a worker that hung or died had not scored. A completion fails if it stops a worker in its second
        attempt.

        One call at a time: when a process dies, Ray also loses results that it had returned but not yet sent, and an earlier
        completion would be blamed.

        Raises:
            UserError: one failed, and ``failure_value`` is not set.
            RoleTimeout, RoleDied: a replaced worker did not start.
        """
        found: list[Outcomes] = []
        attempts = 1  # of each completion, alone: the first of this prompt that stops its worker stopped it before, too
        self._replace(index)
        for group in groups:
            outcomes, texts = [], []
            for sample in range(group.size):
                for _ in range(attempts):
                    call = self._pool.begin(index, "score", (group.task, group.prompt, group.completions, (sample,)))
                    result = call.figures(self._section.deadline_s)
                    if not isinstance(result, RoleTimeout | RoleDied):
                        break
                    self._replace(index)
                else:
                    call = self._stopped(index, group, sample, result)
                    result = call.figures(self._start_deadline_s)  # of ``fail``
                    if isinstance(result, RoleTimeout | RoleDied):
                        raise result
                    if self._section.failure_value is None:
                        self.settle(group, sample, result[0])  # it ends the run: the others need no worker any more
                    attempts = 2  # those after it have had no attempt yet
                outcomes += result
                texts.append(call.rest)
            attempts = 2  # the worker may have had no attempt at another prompt yet
            found.append((outcomes, put(tuple(text for (text,) in fetch(texts)))))
        return found

    def _stopped(self, index: int, group: SampledGroup, sample: int, error: RoleTimeout | RoleDied) -> Begun:
        hung = isinstance(error, RoleTimeout)
        reason = f"did not answer within {self._section.deadline_s:g} s, twice" if hung else "ended its process, twice"
        return self._pool.begin(index, "fail", (group.task, group.prompt, group.completions, sample, reason))

    def _replace(self, index: int) -> None:
        self._pool.replace(index)
        self.restarts += 1
        call_each([self._pool.workers[index]], "ping", [()], self._start_deadline_s, f"replaced {self._pool.role}")

    def settle(self, group: SampledGroup, sample: int, outcome: Score | Failed) -> Score:
        """The score of an outcome.

        Raises:
            UserError: it failed and ``failure_value`` is not set.
        """
        if isinstance(outcome, Score):
            names = frozenset(outcome.components)
            if self._names in (None, names):
                self._names = names
                return outcome
            changed = f"returned the components {', '.join(sorted(names))}, but {', '.join(sorted(self._names or ()))} before"
            outcome = Failed(outcome, changed)
        name, value = self._section.name, self._section.failure_value
        said = f"reward {name!r}, task {group.task.task_id}, sample {sample}: the reward {outcome.reason}"
        if value is None:
            raise UserError(f"{said}; mend it, or set reward.failure_value to go on")
        logger.warning("%s; the sample is worth reward.failure_value=%g", said, value)
        return outcome.scored(value)


class RewardBatch:
    """Groups that are scored from the moment they are added.

    Args:
        workers: the reward workers, ``count`` of them.
        deadline_s: of the completions of a prompt.
    """

    def __init__(self, workers: RewardGroup, count: int, deadline_s: float):
        self._workers, self._deadline_s = workers, deadline_s
        self._calls: list[list[tuple[SampledGroup, Begun]]] = [[] for _ in range(count)]

    def add(self, group: SampledGroup) -> None:
        """Give a group to the worker that was given the fewest. One that was sampled again takes the place of the first."""
        for calls in self._calls:
            calls[:] = [one for one in calls if one[0].group != group.group]
        index = min(range(len(self._calls)), key=lambda i: len(self._calls[i]))
        self._calls[index].append((group, self._workers.begin(index, group)))

    def finish(self) -> list[ScoredGroup]:
        """All groups with their scores, by their index.

        Raises:
            UserError: the reward failed twice on a completion and ``failure_value`` is not set.
            RoleTimeout, RoleDied: a replaced worker did not start.
            ObjectsLost: completions are gone with the machine that held them.
        """
        found: list[tuple[SampledGroup, Outcomes]] = []
        for index, calls in enumerate(self._calls):
            for place, (group, call) in enumerate(calls):
                result = call.figures(self._deadline_s)
                if isinstance(result, RoleTimeout | RoleDied):
                    left = [one for one, _ in calls[place:]]
                    size = sum(one.size for one in left)
                    logger.warning("%s; it is replaced and its %d rollouts are scored again", result, size)
                    found += zip(left, self._workers.one_by_one(index, left), strict=True)
                    break
                found.append((group, (result, call.rest)))
        self._calls = []
        return [self._scored(group, *outcomes) for group, outcomes in sorted(found, key=lambda one: one[0].group)]

    def _scored(self, group: SampledGroup, outcomes: Sequence[Score | Failed], texts: Address) -> ScoredGroup:
        scores = tuple(self._workers.settle(group, sample, outcome) for sample, outcome in enumerate(outcomes))
        return ScoredGroup(group.task, group.group, group.prompt, scores, group.completions, texts)
