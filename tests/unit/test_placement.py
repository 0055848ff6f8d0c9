"""The resources a run needs, and the refusal if there are too few."""

import pytest

from r0.actors.placement import Bundle, bundles, check
from r0.config import SftConfig, StageAConfig
from r0.errors import UserError


def config(**values):
    return StageAConfig.model_validate(values)


def test_one_bundle_a_worker_learner_first():
    need = bundles(config(learner={"ranks": 2, "cpus": 2.0}, rollout={"workers": 3}, reward={"workers": 2}), has_gpus=False)
    assert [bundle.role for bundle in need] == ["learner"] * 2 + ["rollout"] * 3 + ["reward"] * 2
    assert need[0].resources == {"CPU": 2.0}


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
