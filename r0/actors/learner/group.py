"""The driver's interface to all learner ranks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from r0.actors.calls import CallLeft, RoleDied, is_actor
from r0.actors.deadline import Deadline
from r0.actors.learner.batch import check_scores
from r0.actors.learner.batch_fault import BatchFault
from r0.actors.learner.idle import skip_idle
from r0.actors.learner.shares import assign_groups
from r0.actors.pool import Pool
from r0.config import RLConfig
from r0.errors import RunFailed, UserError, reason
from r0.process.objects import ObjectsLost
from r0.records import UnreadGroup
from r0.storage.manifest import Entries

GRACE_S = 30.0  # additional seconds in which the ranks report why a sync failed
PING_S = 20.0  # seconds in which a rank answers after a call has failed

logger = logging.getLogger(__name__)


class LearnerLost(RunFailed):
    """A learner rank died or hangs; the others cannot go on without it."""


class LearnerGroup:
    """Calls all ranks together.

    Args:
        pool: ``Learner`` objects or actors, one per rank, in the order of their ranks.
        config: the run's configuration.
    """

    def __init__(self, pool: Pool, config: RLConfig):
        self.pool = pool
        self.config = config
        self._update = Deadline(config.ray.update_deadline_s)
        self._places: list[list[int]] = []  # of each rank's groups in the newest batch

    def expect(self, seconds: float) -> None:
        """Sampling a batch took so long: the first update may take ten times as long, if that is more than its deadline."""
        self._update.expect(seconds)

    def update(
        self, groups: Sequence[UnreadGroup], version: int, step: int, leave: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """Distribute a batch over the ranks, without its idle groups (``skip_idle``) and balanced by tokens, update, and return
        the metrics (the same on every rank).

        Args:
            groups: the whole batch; each rank reads the tokens of its own.
            version: of the learner's weights.
            step: of the run; step and seed determine the order of the mini-batches.
            leave: whether the update is not wanted any more. It is left between rows if no weight has changed yet, and returns
                no metrics.

        Raises:
            StaleRollout: a rollout's version is not allowed.
            UserError: a reward or a rollout's log-probability is not finite.
            LearnerLost: a rank died, or does not answer within the deadline (see ``ray.update_deadline_s``); or rollouts are gone
                with the machine that held them.
        """
        section = self.config.section
        check_scores(groups, version, self.config.sync.max_staleness)
        needed = skip_idle(groups, self.config, step)
        shares = assign_groups(needed, len(self.pool), section.num_ppo_epochs, section.num_mini_batches, self.config.seed, step)
        arguments = [(share.groups, version, share.schedule) for share in shares]
        self._places = [share.places for share in shares]
        if not is_actor(self.pool.workers[0]):
            self.pool.workers[0].updater.left = leave
        if leave():
            return {}
        with self._whole(), self._update.call() as deadline_s:
            try:
                return self.pool.each("update", arguments, deadline_s, leave)[0]
            except CallLeft:  # the ranks leave it, or finish it where weights have changed
                return self.pool.all("figures", version, deadline_s=deadline_s)[0]

    def batch_fault(self) -> BatchFault:
        """What was wrong with the newest batch, where figures have ``skipped_updates``; (group, sample) by place in the batch."""
        found = self._all("batch_fault", deadline_s=self.config.ray.update_deadline_s)
        samples = [(places[g], s) for places, each in zip(self._places, found, strict=True) for g, s in each.samples]
        return BatchFault(found[0].reason, tuple(sorted(samples)))

    def offload(self) -> None:
        """Free memory of a card that an engine shares."""
        self._all("offload", deadline_s=self.config.ray.update_deadline_s)

    def reload(self) -> None:
        """Reverse ``offload`` before an update."""
        self._all("reload", deadline_s=self.config.ray.update_deadline_s)

    def connect(self, backend: str, workers: list) -> None:
        """Prepare the weight sync on every rank."""
        self._all("connect", backend, workers, deadline_s=self._sync_deadline_s)

    def sync(self, version: int) -> float:
        """Send the weights as ``version``; returns the seconds of the slowest rank."""
        return max(self._all("sync", version, deadline_s=self._sync_deadline_s))

    def sent(self) -> str:
        """The digest of the weights that the newest sync sent."""
        return self._all("sent", deadline_s=self._sync_deadline_s)[0]

    @property
    def _sync_deadline_s(self) -> float:
        """Longer than the ranks' own deadline, because their error says more than a timeout here."""
        return self.config.sync.deadline_s + GRACE_S

    def save(self, folder: str) -> None:
        """Every rank copies its part of a checkpoint and starts to write it in the background."""
        self._all("save", folder, deadline_s=self.config.ray.update_deadline_s)

    def saved_files(self, wait: bool) -> Entries | None:
        """The files of the checkpoint when all ranks have written theirs; None while a rank is writing and ``wait`` is false."""
        parts = self._all("saved_files", wait, deadline_s=self.config.ray.update_deadline_s)
        return None if None in parts else {name: file for part in parts for name, file in part.items()}

    def load(self, folder: str) -> str | None:
        """Load a checkpoint on every rank. Returns what is not as it was, in a sentence."""
        return self._all("load", folder, deadline_s=self.config.ray.update_deadline_s)[0]

    def save_model(self, folder: str) -> None:
        """Write the policy as a Hugging Face folder."""
        self._all("save_model", folder, deadline_s=self.config.ray.update_deadline_s)

    def _all(self, method: str, *arguments: Any, deadline_s: float) -> list[Any]:
        with self._whole():
            return self.pool.all(method, *arguments, deadline_s=deadline_s)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """After an error inside, look whether every rank still answers.

        Raises:
            LearnerLost: one does not.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            answers = self.pool.attempt_some("node", dict.fromkeys(range(len(self.pool)), ()), PING_S)
            lost = [answer for answer in answers.values() if isinstance(answer, Exception)]
            if not lost and not isinstance(error, ObjectsLost):
                raise
            if not isinstance(error, RunFailed):
                logger.warning("a learner rank failed", exc_info=error)
            raise LearnerLost(reason(error if isinstance(error, RoleDied | ObjectsLost) else lost[0])) from error

    def close(self) -> None:
        """End all ranks."""
        self.pool.close()
