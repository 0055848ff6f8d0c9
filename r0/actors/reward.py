"""The reward role: sampled ids → text, verdict and named components, in separate processes.

A reward may be third-party code. ``CheckedReward`` catches exceptions and invalid results. A reward can also hang or end its
process, so a batch has a deadline, and a worker that exceeds it or dies is killed and replaced. Its share is scored again, one
completion per call, to find the completion that causes it. Without Ray (inline) a signal interrupts a reward that hangs, but the
run does not survive one that ends the process.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from r0.actors.pool import Pool, RoleDied, RoleTimeout, call_each
from r0.config.sections import RewardBase
from r0.errors import UserError
from r0.process.spans import Traced, span
from r0.records import Rollout, Scored, Verdict
from r0.rewards import make_reward
from r0.rewards.checked import CheckedReward, RewardFailed
from r0.rewards.token_limit import OVERLONG, TokenLimit
from r0.text.completion import CompletionReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failed:
    """A rollout that the reward could not score. ``reason`` continues "the reward …"."""

    rollout: Rollout
    text: str
    verdict: Verdict
    reason: str
    masked: bool = False

    def scored(self, value: float) -> Scored:
        """The rollout with the score ``value``."""
        return Scored(self.rollout, self.text, self.verdict, {"failure": value}, value, self.masked)


class RewardWorker(Traced):
    """Scores rollouts. A plain class; as a Ray actor it is one process.

    Args:
        tokenizer: a transformers tokenizer. It is loaded elsewhere (``load_tokenizer``): to unpickle one does not import
            torch, which is most of a worker's start.
        section: name and settings of the reward.
        eos_token_ids: additional ids that end a sequence.
        limit: what the token limit means for a score.

    Raises:
        UserError: ``section.name`` is not the name of a reward.
    """

    def __init__(
        self, tokenizer: Any, section: RewardBase, eos_token_ids: Iterable[int] = (), limit: TokenLimit | None = None
    ):
        self._reward, self._limit = CheckedReward(make_reward(section)), limit or TokenLimit()
        self._reader = CompletionReader(tokenizer, eos_token_ids)

    def ping(self) -> bool:
        """Return once the worker is ready."""
        return True

    def score(self, rollouts: Sequence[Rollout]) -> list[Scored | Failed]:
        """One outcome for each rollout, in order."""
        with span("reward", "score", completions=len(rollouts)):
            return [self._score(rollout) for rollout in rollouts]

    def fail(self, rollout: Rollout, reason: str) -> Failed:
        """The outcome of a rollout for which ``score`` did not return; the reward is not called."""
        text, verdict = self._read(rollout)
        return Failed(rollout, text, verdict, reason, self._limit.masks(verdict))

    def _score(self, rollout: Rollout) -> Scored | Failed:
        text, verdict = self._read(rollout)
        masked, added = self._limit.masks(verdict), self._limit.components(len(rollout.sampled.token_ids))
        try:
            components, total = self._reward(self._limit.seen(verdict), rollout.task.label)
        except RewardFailed as failed:
            return Failed(rollout, text, verdict, str(failed), masked)
        if added:
            if not added.keys().isdisjoint(components):
                return Failed(rollout, text, verdict, f"returned {OVERLONG}, which reward.overlong_tokens adds", masked)
            components |= added
            total = math.fsum(components.values())
        return Scored(rollout, text, verdict, components, total, masked)

    def _read(self, rollout: Rollout) -> tuple[str, Verdict]:
        sampled, task = rollout.sampled, rollout.task
        return self._reader.read(sampled.token_ids, rollout.prompt.prefix, sampled.finish, task.form, task.size)


class RewardGroup:
    """The reward workers together.

    Args:
        pool: of ``RewardWorker`` (plain objects or Ray actors).
        section: name of the reward, deadline of a batch (and of repeated shares), and the value of completions that it cannot
            score.
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

    def score(self, rollouts: Sequence[Rollout]) -> list[Scored]:
        """One ``Scored`` for each rollout, in order; adjacent rollouts go to the same worker.

        Raises:
            UserError: the reward failed twice on a rollout and ``failure_value`` is not set.
            RoleTimeout, RoleDied: a replaced worker did not start.
        """
        if not self._started:
            self.ready()
        shares = _shares(rollouts, len(self._pool))
        results = self._pool.attempt("score", [(share,) for share in shares], self._section.deadline_s)
        for index, (share, result) in enumerate(zip(shares, results, strict=True)):
            if isinstance(result, RoleTimeout | RoleDied):
                logger.warning("%s; it is replaced and its %d rollouts are scored again", result, len(share))
                results[index] = self._one_by_one(index, share)
        return [self._settle(outcome) for outcomes in results for outcome in outcomes]

    def _one_by_one(self, index: int, share: Sequence[Rollout]) -> list[Scored | Failed]:
        """Score a share whose worker hung or died. A rollout fails if it stops a worker in its second attempt.

        One call at a time: when a process dies, Ray also loses results that it had returned but not yet sent, and an earlier
        rollout would be blamed.
        """
        outcomes: list[Scored | Failed] = []
        attempts = 1  # of each rollout, alone: the first that stops its worker stopped the share's worker too
        self._replace(index)
        for rollout in share:
            for _ in range(attempts):
                result = self._pool.attempt_on(index, "score", ([rollout],), self._section.deadline_s)
                if not isinstance(result, RoleTimeout | RoleDied):
                    outcomes += result
                    break
                self._replace(index)
            else:
                outcomes.append(self._stopped(index, rollout, result))
                if self._section.failure_value is None:
                    return outcomes  # it ends the run: the others need no worker any more
                attempts = 2  # the rollouts after it have had no attempt yet
        return outcomes

    def _stopped(self, index: int, rollout: Rollout, error: RoleTimeout | RoleDied) -> Failed:
        hung = isinstance(error, RoleTimeout)
        reason = f"did not answer within {self._section.deadline_s:g} s, twice" if hung else "ended its process, twice"
        return call_each([self._pool.workers[index]], "fail", [(rollout, reason)], self._start_deadline_s, self._pool.role)[0]

    def _replace(self, index: int) -> None:
        self._pool.replace(index)
        self.restarts += 1
        call_each([self._pool.workers[index]], "ping", [()], self._start_deadline_s, f"replaced {self._pool.role}")

    def _settle(self, outcome: Scored | Failed) -> Scored:
        """The outcome as ``Scored``.

        Raises:
            UserError: it failed and ``failure_value`` is not set.
        """
        if isinstance(outcome, Scored):
            names = frozenset(outcome.components)
            if self._names in (None, names):
                self._names = names
                return outcome
            changed = f"returned the components {', '.join(sorted(names))}, but {', '.join(sorted(self._names or ()))} before"
            outcome = Failed(outcome.rollout, outcome.text, outcome.verdict, changed, outcome.masked)
        rollout, name, value = outcome.rollout, self._section.name, self._section.failure_value
        said = f"reward {name!r}, task {rollout.task.task_id}, sample {rollout.sample}: the reward {outcome.reason}"
        if value is None:
            raise UserError(f"{said}; mend it, or set reward.failure_value to go on")
        logger.warning("%s; the sample is worth reward.failure_value=%g", said, value)
        return outcome.scored(value)


def _shares(rollouts: Sequence[Rollout], parts: int) -> list[Sequence[Rollout]]:
    """``rollouts`` split into at most ``parts`` contiguous, non-empty parts of nearly equal length."""
    parts = min(parts, len(rollouts))
    return [rollouts[len(rollouts) * part // parts : len(rollouts) * (part + 1) // parts] for part in range(parts)]


def load_tokenizer(path: str) -> tuple[Any, list[int]]:
    """The tokenizer of a model (a folder or a Hub name), and the end-of-sequence ids of the model's generation configuration."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(path)
    try:
        ends = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # the model has none
        ends = None
    return tokenizer, [ends] if isinstance(ends, int) else list(ends or ())
