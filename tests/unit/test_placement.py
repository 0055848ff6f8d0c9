"""The resources a run needs, and the refusal if there are too few."""

import pytest
from pydantic import ValidationError

from r0.actors.placement import Bundle, bundles, check
from r0.actors.rollout.settings import EngineSettings
from r0.config import SftConfig, StageAConfig
from r0.errors import UserError


def config(**values):
    return StageAConfig.model_validate(values)


def test_one_bundle_a_worker_learner_first():
    need = bundles(config(learner={"ranks": 2, "cpus": 2.0}, rollout={"workers": 3}, reward={"workers": 2}), has_gpus=False)
    assert [bundle.role for bundle in need] == ["learner"] * 2 + ["rollout"] * 3 + ["reward"] * 2
    assert need[0].resources == {"CPU": 2.0}


def test_half_a_run_needs_the_workers_of_that_half():
    roles = {"learner": {"ranks": 2}, "rollout": {"workers": 3}, "reward": {"workers": 2}}
    assert [bundle.role for bundle in bundles(config(**roles, rollouts="runs/a"), has_gpus=False)] == ["learner"] * 2
    need = bundles(config(**roles, rollouts_only=True), has_gpus=False)
    assert [bundle.role for bundle in need] == ["rollout"] * 3 + ["reward"] * 2


@pytest.mark.parametrize("half", [{"rollouts": "runs/a"}, {"rollouts_only": True}])
def test_half_a_run_shares_its_card_with_nobody(half):
    shared = {"learner": {"gpus": 0.4}, "rollout": {"gpus": 0.6}}
    assert EngineSettings.of(config(**shared), "", gpus=True).sleep
    alone = EngineSettings.of(config(**shared, **half), "", gpus=True)
    assert (alone.sleep, alone.shared_card) == (False, False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rollouts": "runs/a", "rollouts_only": True}, "rollouts_only: with rollouts= nothing is sampled"),
        ({"rollouts_only": True, "tracking": {"rollouts_every": 2}}, "tracking.rollouts_every: rollouts_only=true stores"),
        ({"rollouts_only": True, "checkpoint": {"best": "x"}}, "checkpoint.best: with rollouts_only=true nothing is evaluated"),
    ],
)
def test_keys_of_both_halves_are_refused(values, words):
    with pytest.raises(ValidationError, match=words):
        config(**values)


def test_gpus_follow_the_cluster_unless_given():
    need = bundles(config(rollout={"tensor_parallel_size": 2}), has_gpus=True)
    assert [bundle.gpus for bundle in need] == [1.0, 2.0, 0.0]
    shared = bundles(config(learner={"gpus": 0.5}, rollout={"gpus": 0.5}), has_gpus=True)
    assert [bundle.gpus for bundle in shared] == [0.5, 0.5, 0.0]
    assert [bundle.gpus for bundle in bundles(SftConfig(), has_gpus=True)] == [1.0]


def test_too_little_in_total_is_refused_with_need_and_have():
    with pytest.raises(UserError, match=r"needs 3 CPU \(learner 2 × 1, rollout 1 × 1\) and Ray has 2"):
        check([Bundle("learner", 1, 0)] * 2 + [Bundle("rollout", 1, 0)], [{"CPU": 2.0}])
    with pytest.raises(UserError, match=r"needs 1 GPU .* and Ray has 0"):
        check([Bundle("rollout", 1, 1)], [{"CPU": 8.0}])


def test_a_worker_that_fits_no_node_is_refused():
    with pytest.raises(UserError, match="no node can hold a learner worker of 3 CPU"):
        check([Bundle("learner", 3, 0)], [{"CPU": 2.0}, {"CPU": 2.0}])


def test_a_need_that_fits_is_accepted():
    check([Bundle("learner", 1, 0.5), Bundle("rollout", 1, 0.5), Bundle("reward", 1, 0)], [{"CPU": 3.0, "GPU": 1.0}])
