"""The reward role: sampled ids → text, verdict and named components, in processes of its own.

Scoring is plain Python, and no timeout can stop Python from within its own process; hence a batch has a deadline, and a worker
that hangs (or dies) is ended, replaced, and its share repeated once. Without Ray (inline) the worker is simply called.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

from r0.actors.pool import Pool, RoleDied, RoleTimeout, attempt_each, call_each
from r0.config.sections import RewardBase
from r0.records import Rollout, Scored
from r0.rewards import make_reward
from r0.text.completion import CompletionReader

logger = logging.getLogger(__name__)


class RewardWorker:
    """Scores rollouts. A plain class; as a Ray actor it is one process.

    Args:
        tokenizer: a transformers tokenizer, or where to load one from (a folder, or a name on the Hub).
        section: which reward, and its values.
        eos_token_ids: ids that end a sequence, beside the tokenizer's own; a tokenizer loaded here brings those of the model's
            generation configuration along.

    Raises:
        UserError: ``section.name`` is not the name of a reward.
    """

    def __init__(self, tokenizer: Any, section: RewardBase, eos_token_ids: Iterable[int] = ()):
        self._reward = make_reward(section)
        self._name = section.name
        if not hasattr(tokenizer, "decode"):
            tokenizer, more = _load(str(tokenizer))
            eos_token_ids = [*eos_token_ids, *more]
        self._reader = CompletionReader(tokenizer, eos_token_ids)

    def ping(self) -> bool:
        """Answers once the worker is ready."""
        return True

    def score(self, rollouts: Sequence[Rollout]) -> list[Scored]:
        """One ``Scored`` for each rollout, in order.

        Raises:
            ValueError: the reward gave a component that is not finite.
        """
        return [self._score(rollout) for rollout in rollouts]

    def _score(self, rollout: Rollout) -> Scored:
        sampled = rollout.sampled
        task = rollout.task
        text, verdict = self._reader.read(sampled.token_ids, rollout.prompt.prefix, sampled.finish, task.form, task.size)
        components = self._reward(verdict, task.label)
        total = math.fsum(components.values())  # exact, whatever the order of the components
        if not math.isfinite(total):
            raise ValueError(f"reward {self._name!r} is not finite for task {rollout.task.task_id}: {dict(components)}")
        return Scored(rollout, text, verdict, components, total)


class RewardGroup:
    """The reward workers together.

    Args:
        pool: of ``RewardWorker`` (plain objects or Ray actors).
        deadline_s: seconds for a batch; again so many for the shares that are repeated.
        start_deadline_s: seconds in which a worker has to be ready, the first time and after it was replaced.

    Attributes:
        restarts: workers replaced so far (a metric).
    """

    def __init__(self, pool: Pool, deadline_s: float, start_deadline_s: float = 600.0):
        self._pool = pool
        self._deadline_s = deadline_s
        self._start_deadline_s = start_deadline_s
        self._started = False
        self.restarts = 0

    def ready(self) -> None:
        """Wait until every worker has started (the first batch does so, too: starting does not count against its deadline).

        Raises:
            RoleTimeout, RoleDied: a worker did not start.
        """
        self._pool.all("ping", deadline_s=self._start_deadline_s)
        self._started = True

    def score(self, rollouts: Sequence[Rollout]) -> list[Scored]:
        """One ``Scored`` for each rollout, in order; neighbours go to the same worker.

        Raises:
            RoleTimeout: a worker hung, and so did its replacement; names the tasks of their share.
            RoleDied: likewise, with processes that ended.
        """
        if not self._started:
            self.ready()
        shares = _shares(rollouts, len(self._pool))
        results = self._pool.attempt("score", [(share,) for share in shares], self._deadline_s)
        failed = [index for index, result in enumerate(results) if isinstance(result, RoleTimeout | RoleDied)]
        if failed:
            for index in failed:
                logger.warning("%s; it is replaced and its %d rollouts are scored again", results[index], len(shares[index]))
                self._pool.replace(index)
                self.restarts += 1
            again = self._repeat(failed, [shares[index] for index in failed])
            for index, result in zip(failed, again, strict=True):
                results[index] = result
        return [scored for share in results for scored in share]

    def _repeat(self, indices: Sequence[int], shares: Sequence[Sequence[Rollout]]) -> list[list[Scored]]:
        """Score ``shares`` on the replaced workers ``indices``; a second failure is final."""
        workers = [self._pool.workers[index] for index in indices]
        role = f"replaced {self._pool.role}"
        call_each(workers, "ping", [()] * len(workers), self._start_deadline_s, role)
        results = attempt_each(workers, "score", [(share,) for share in shares], self._deadline_s, role)
        for result, share in zip(results, shares, strict=True):
            if isinstance(result, RoleTimeout | RoleDied):
                kind = type(result)
                raise kind(f"{result}, for the second time; its share of the batch: {_tasks(share)}") from result
        return results


def _shares(rollouts: Sequence[Rollout], parts: int) -> list[Sequence[Rollout]]:
    """``rollouts`` in at most ``parts`` runs of nearly equal length, none empty."""
    parts = min(parts, len(rollouts))
    return [rollouts[len(rollouts) * part // parts : len(rollouts) * (part + 1) // parts] for part in range(parts)]


def _tasks(share: Sequence[Rollout], most: int = 20) -> str:
    ids = list(dict.fromkeys(rollout.task.task_id for rollout in share))
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return f"{len(share)} rollouts of task{'s' * (len(ids) > 1)} {', '.join(map(str, ids[:most]))}{more}"


def _load(path: str) -> tuple[Any, list[int]]:
    """The tokenizer at ``path``, and the ids that its model's generation configuration ends a sequence with."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(path)
    try:
        ends = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # a model without one
        ends = None
    return tokenizer, [ends] if isinstance(ends, int) else list(ends or ())
