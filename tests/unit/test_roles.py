"""Who is on the card when: the order of calls to learner and engine that share it."""

import pytest

from r0.actors import roles
from r0.actors.placement import bundles
from r0.actors.pool import Pool
from r0.actors.rollout.settings import EngineSettings
from r0.config import StageAConfig
from r0.errors import RunFailed, UserError
from r0.process import gpus


class Recorded:
    """Stands in for a role: every call is written down."""

    log: list[str]

    def __init__(self, *arguments, **options):
        self.arguments = (*arguments, *options.values())
        self.log.append(f"{self.role} begins")

    def __getattr__(self, name):
        def call(*arguments):
            self.log.append(f"{self.role} {name}")
            return {"gap": 0.0} if name == "update" else 1.0

        return call

    def versions(self):
        return [1]

    def sent(self):
        return "3-abc"

    def received(self):
        return self.digest

    digest = "3-abc"  # of what arrived


@pytest.fixture
def recorded(monkeypatch):
    """The log, with all roles and Ray replaced."""
    log = []
    made = {}
    for role, name in (("learner", "Learner"), ("engine", "RolloutWorker"), ("reward", "RewardWorker")):
        made[role] = type(name, (Recorded,), {"role": role, "log": log, "version": lambda self: 1})
        monkeypatch.setattr(roles, name, made[role])
    monkeypatch.setattr(roles, "load_tokenizer", lambda _: (None, []))
    return log


class FakePlacement:
    def __init__(self, need):
        self.need = need

    def master(self):
        return "127.0.0.1:1"

    def options(self, role, index, variables=None):
        return {}

    def bundle_index(self, role, index):
        return [bundle.role for bundle in self.need].index(role) + index

    def close(self):
        pass


class FakeRay:
    """``ray.remote(cls).options(…).remote(…)`` makes a plain object, which the pool then calls as one."""

    def __init__(self, cls):
        self.cls = cls

    def options(self, **_):
        return self

    def remote(self, *arguments):
        return self.cls(*arguments)


def on_ray(monkeypatch, cards=1.0, **values) -> roles.Roles:
    monkeypatch.setattr("ray.remote", FakeRay)
    monkeypatch.setattr(roles, "Placement", FakePlacement)
    monkeypatch.setattr(roles, "cluster_gpus", lambda: cards)
    config = StageAConfig.model_validate(values)
    return roles.on_ray(config, "model", 1, bundles(config, cards > 0))


HALVES = {"learner": {"gpus": 0.4}, "rollout": {"gpus": 0.6}, "algo": "grpo"}


def learned(team: roles.Roles, log: list[str]) -> list[str]:
    """The calls of one step from the update to the sync."""
    log.clear()
    team.learn([], step=0)
    team.sync(version=1)
    return log


def test_on_a_shared_card_the_learner_starts_and_makes_room_before_the_engine_starts(monkeypatch, recorded):
    on_ray(monkeypatch, **HALVES)
    begun = [line for line in recorded if not line.startswith("reward")]
    assert begun == ["learner begins", "learner offload", "engine begins"]


def test_on_a_shared_card_the_engine_sleeps_while_the_learner_works_and_wakes_in_the_sync(monkeypatch, recorded):
    team = on_ray(monkeypatch, **HALVES)
    assert learned(team, recorded) == ["engine sleep", "learner reload", "learner update", "learner offload", "learner sync"]


@pytest.mark.parametrize("arrived", ["0", "2-abc", "3-abd"])
def test_a_sync_that_did_not_bring_the_learners_weights_is_an_error(monkeypatch, recorded, arrived):
    team = on_ray(monkeypatch, cards=2.0)
    monkeypatch.setattr(Recorded, "digest", arrived)
    with pytest.raises(RunFailed, match=rf"have received \['{arrived}'\], the learner sent 3-abc"):
        team.sync(version=1)


def test_without_sleep_the_learner_still_starts_first_and_nobody_moves(monkeypatch, recorded):
    team = on_ray(monkeypatch, **HALVES | {"rollout": {"gpus": 0.6, "sleep": False}})
    assert [line for line in recorded if not line.startswith("reward")] == ["learner begins", "engine begins"]
    assert learned(team, recorded) == ["learner update", "learner sync"]
    assert team.engine.gpu_memory_utilization == 0.6  # its part of the card, not the default 0.85


def test_with_a_card_each_nobody_sleeps(monkeypatch, recorded):
    team = on_ray(monkeypatch, cards=2.0)
    assert not team.engine.shared_card
    assert learned(team, recorded) == ["learner update", "learner sync"]


def test_inline_on_a_gpu_shares_it_too(monkeypatch, recorded):
    monkeypatch.setattr(roles, "local_gpus", lambda: 1)
    monkeypatch.setattr(roles, "cuda_available", lambda: True)
    monkeypatch.setattr(roles, "check_vllm", lambda on_gpu: None)
    team = roles.inline(StageAConfig.model_validate({"ray": {"inline": True}}), "model", 1)
    assert recorded == ["learner begins", "learner offload", "engine begins", "reward begins"]
    assert learned(team, recorded)[0] == "engine sleep"


def test_inline_a_vllm_for_the_other_device_is_refused_before_the_learner_loads(monkeypatch, recorded):
    monkeypatch.setattr(roles, "local_gpus", lambda: 1)
    monkeypatch.setattr(roles, "cuda_available", lambda: True)
    monkeypatch.setattr(gpus, "vllm_build", lambda: "cpu")
    with pytest.raises(UserError, match="vLLM's CPU build is installed"):
        roles.inline(StageAConfig.model_validate({"ray": {"inline": True}}), "model", 1)
    assert recorded == []


def test_an_update_that_fails_leaves_the_engine_asleep(monkeypatch, recorded):
    team = on_ray(monkeypatch, **HALVES)

    def broken(groups, version, step, leave):
        raise RuntimeError("loss is NaN")

    monkeypatch.setattr(team.learner, "update", broken)
    recorded.clear()
    with pytest.raises(RuntimeError, match="NaN"):
        team.learn([], step=0)
    assert recorded == ["engine sleep", "learner reload"]


def test_a_learner_without_a_gpu_stays_on_the_cpu_and_hands_weights_over_gloo(monkeypatch, recorded):
    team = on_ray(monkeypatch, learner={"gpus": 0.0})
    assert team.pools[2].workers[0].arguments[-1] == "cpu"
    assert (team.engine.transfer, team.engine.device, team.engine.shared_card) == ("gloo", "auto", False)
    everywhere = on_ray(monkeypatch)
    assert everywhere.pools[2].workers[0].arguments[-1] is None
    assert everywhere.engine.transfer == "nccl"


def test_engines_without_a_gpu_of_their_own_do_not_take_the_nodes():
    config = StageAConfig.model_validate({"rollout": {"gpus": 0.0}})
    assert EngineSettings.of(config, "model", gpus=True).device == "cpu"
    assert EngineSettings.of(StageAConfig(), "model", gpus=False).device == "cpu"


def test_a_sync_that_is_late_is_explained_by_the_ranks_before_the_driver_gives_up():
    waited = []

    class Ranks(Pool):
        def all(self, method, *args, deadline_s):
            waited.append(deadline_s)
            return [1.0]

    config = StageAConfig.model_validate({"sync": {"deadline_s": 10.0}})
    group = roles.LearnerGroup(Ranks("learner", lambda _: object(), 1), config)
    group.connect("gloo", [])
    group.sync(1)
    assert waited == [40.0, 40.0]


@pytest.mark.parametrize(
    ("values", "gpus", "mine", "want"),
    [
        ({}, 2.0, None, {"learner": "expandable_segments:True"}),  # nccl
        ({"learner": {"gpus": 0.4}, "rollout": {"gpus": 0.6}}, 1.0, None, {}),  # ipc
        ({}, 0.0, None, {}),
        ({}, 2.0, "max_split_size_mb:64", {}),
    ],
)
def test_only_learners_on_gpus_of_their_own_grow_their_segments(recorded, monkeypatch, values, gpus, mine, want):
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    if mine:
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", mine)
    found = {}

    def options(self, role, index, variables=None):
        if "PYTORCH_ALLOC_CONF" in (variables or {}):
            found[role] = variables["PYTORCH_ALLOC_CONF"]
        return {}

    monkeypatch.setattr(FakePlacement, "options", options)
    on_ray(monkeypatch, gpus, algo="grpo", **values)
    assert found == want
