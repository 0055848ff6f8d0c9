"""The driver's interface to all learner ranks."""

from __future__ import annotations

from collections.abc import Sequence

from r0.actors.learner.batch import check_groups
from r0.actors.learner.shares import assign_groups
from r0.actors.pool import Pool
from r0.config import RLConfig
from r0.records import TrainGroup
from r0.storage.manifest import Entries

GRACE_S = 30.0  # additional seconds in which the ranks report why a sync failed


class LearnerGroup:
    """Calls all ranks together.

    Args:
        pool: ``Learner`` objects or actors, one per rank, in the order of their ranks.
        config: the run's configuration.
    """

    def __init__(self, pool: Pool, config: RLConfig):
        self.pool = pool
        self.config = config

    def update(self, groups: Sequence[TrainGroup], version: int, step: int) -> dict[str, float]:
        """Distribute a batch over the ranks, balanced by tokens, update, and return the metrics (the same on every rank).

        Args:
            groups: the whole batch.
            version: of the learner's weights.
            step: of the run; step and seed determine the order of the mini-batches.

        Raises:
            StaleRollout: a rollout's version is not allowed.
            UserError: a reward is not finite.
            RoleTimeout: the ranks did not finish within ``ray.update_deadline_s``.
        """
        section = self.config.section
        check_groups(groups, version, self.config.sync.max_staleness)
        shares = assign_groups(groups, len(self.pool), section.num_ppo_epochs, section.num_mini_batches, self.config.seed, step)
        arguments = [(share.groups, version, share.schedule) for share in shares]
        return self.pool.each("update", arguments, self.config.ray.update_deadline_s)[0]

    def offload(self) -> None:
        """Free memory of a card that an engine shares."""
        self.pool.all("offload", deadline_s=self.config.ray.update_deadline_s)

    def reload(self) -> None:
        """Reverse ``offload`` before an update."""
        self.pool.all("reload", deadline_s=self.config.ray.update_deadline_s)

    def connect(self, backend: str, workers: list) -> None:
        """Prepare the weight sync on every rank."""
        self.pool.all("connect", backend, workers, deadline_s=self._sync_deadline_s)

    def sync(self, version: int) -> float:
        """Send the weights as ``version``; returns the seconds of the slowest rank."""
        return max(self.pool.all("sync", version, deadline_s=self._sync_deadline_s))

    @property
    def _sync_deadline_s(self) -> float:
        """Longer than the ranks' own deadline, because their error says more than a timeout here."""
        return self.config.sync.deadline_s + GRACE_S

    def save(self, folder: str) -> None:
        """Every rank copies its part of a checkpoint and starts to write it in the background."""
        self.pool.all("save", folder, deadline_s=self.config.ray.update_deadline_s)

    def saved_files(self, wait: bool) -> Entries | None:
        """The files of the checkpoint when all ranks have written theirs; None while a rank is writing and ``wait`` is false."""
        parts = self.pool.all("saved_files", wait, deadline_s=self.config.ray.update_deadline_s)
        return None if None in parts else {name: file for part in parts for name, file in part.items()}

    def load(self, folder: str) -> None:
        """Load a checkpoint on every rank."""
        self.pool.all("load", folder, deadline_s=self.config.ray.update_deadline_s)

    def save_model(self, folder: str) -> None:
        """Write the policy as a Hugging Face folder."""
        self.pool.all("save_model", folder, deadline_s=self.config.ray.update_deadline_s)

    def close(self) -> None:
        """End all ranks."""
        self.pool.close()
