"""What a caller learns of an update that it has left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from r0.actors.calls import RoleDied
from r0.actors.learner import worker
from r0.actors.learner.group import LearnerGroup, LearnerLost
from r0.actors.learner.update import Left
from r0.actors.learner.worker import Learner
from r0.actors.pool import Pool
from r0.actors.rollout.group import RolloutGroup, RolloutsLost
from r0.config import StageAConfig
from r0.process.objects import ObjectsLost


@pytest.fixture
def learner(monkeypatch):
    """A rank without networks, whose ``updater`` a test chooses."""
    monkeypatch.setattr(worker, "set_learning_rate", lambda *_: None)
    made = Learner.__new__(Learner)
    made.config, made.updates, made.total_updates, made._newest = StageAConfig(), 0, 1, None
    made.networks = SimpleNamespace(policy=None, critic=None, shared_prefix=True)
    return made


def test_an_update_that_was_made_says_its_figures_for_its_own_version_only(learner):
    assert learner.figures(0) == {}
    learner.updater = lambda *_: {"loss": 1.0}
    made = learner.update([], version=0)
    assert learner.figures(0) == made
    assert made["loss"] == 1.0
    assert learner.figures(1) == {}  # the update of version 1 was cancelled before it began


def test_an_update_that_was_left_has_no_figures_and_one_that_failed_is_no_update_that_was_left(learner):
    def leaves(*_):
        raise Left

    def fails(*_):
        raise ValueError("out of memory")

    learner.updater = leaves
    assert learner.update([], version=3) == learner.figures(3) == {}
    learner.updater = fails
    with pytest.raises(ValueError, match="out of memory"):
        learner.update([], version=3)
    with pytest.raises(RuntimeError, match=r"failed after it was left.*half updated"):
        learner.figures(3)


def test_an_update_that_is_not_wanted_is_not_begun():
    asked = []
    rank = SimpleNamespace(update=lambda *_: asked.append(1), updater=SimpleNamespace())
    group = LearnerGroup(Pool("learner", lambda _: rank, 1), StageAConfig())
    assert group.update([], version=0, step=0, leave=lambda: True) == {}
    assert not asked


def test_an_update_whose_rollouts_are_lost_with_a_machine_needs_new_ranks():
    def update(*_):
        raise ObjectsLost("rollouts are lost")

    rank = SimpleNamespace(update=update, updater=SimpleNamespace(), node=lambda: "here")
    with pytest.raises(LearnerLost, match="rollouts are lost"):
        LearnerGroup(Pool("learner", lambda _: rank, 1), StageAConfig()).update([], version=0, step=0)


def test_a_pool_that_was_closed_has_nobody_left_to_sample():
    pool = Pool("rollout", lambda _: SimpleNamespace(), 2)
    group = RolloutGroup(pool, 1.0)
    group._lose({0: RoleDied("killed")})
    pool.close()
    with pytest.raises(RolloutsLost):
        group._lose({1: RoleDied("killed")})
