"""Reward workers as Ray actors: one that hangs or dies is replaced, and the order of the rollouts is kept."""

from __future__ import annotations

import time

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from r0.actors.pool import Pool, RoleDied, RoleTimeout
from r0.actors.reward import RewardGroup, RewardWorker
from r0.config.sections import RewardSection
from r0.records import Finish, PointwiseTask, Prompt, Rollout, Sampled

pytestmark = pytest.mark.ray
HANGS, HANGS_ONCE, DIES, DIES_ONCE = 3, 4, 5, 6  # labels that make the test's reward fail
DEADLINE_S = 5.0


def tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(["<|end|>", *alphabet])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


@pytest.fixture
def pool(ray_session, tmp_path):
    """Two workers whose reward, registered in their processes, fails by label."""
    folder = str(tmp_path / "model")
    tokenizer().save_pretrained(folder)
    flag = str(tmp_path / "failed-once")

    class FaultyWorker(RewardWorker):
        def __init__(self):
            import os

            from r0.rewards import register

            def faulty(verdict, label):
                first = label in (HANGS_ONCE, DIES_ONCE) and not os.path.exists(flag)
                if first:
                    open(flag, "w").close()
                if label == DIES or (first and label == DIES_ONCE):
                    os._exit(1)
                while label == HANGS or (first and label == HANGS_ONCE):
                    pass
                return {"label": float(label)}

            register("faulty")(lambda section: faulty)
            super().__init__(folder, RewardSection(name="faulty"))

    made = Pool("reward worker", lambda index: ray_session.remote(FaultyWorker).options(num_cpus=1).remote(), 2)
    yield made
    made.close()


def rollouts(labels: list[int]) -> list[Rollout]:
    ids = tuple(tokenizer().encode("<think>a</think><answer>yes</answer>"))
    sampled = Sampled(ids, (0.0,) * len(ids), Finish.STOP, 0)
    return [Rollout(PointwiseTask(100 + i, "q", "d", label), i, 0, Prompt((1,)), sampled) for i, label in enumerate(labels)]


@pytest.mark.parametrize("fault", [HANGS_ONCE, pytest.param(DIES_ONCE, marks=pytest.mark.slow)], ids=["hangs", "dies"])
def test_a_worker_that_fails_once_is_replaced_and_the_order_is_kept(pool, fault):
    group = RewardGroup(pool, deadline_s=DEADLINE_S, start_deadline_s=120)
    group.ready()
    healthy = pool.workers[0]
    given = rollouts([0, 1, 1, fault, 0])
    scored = group.score(given)
    assert [one.rollout for one in scored] == given
    assert [one.total for one in scored] == [0.0, 1.0, 1.0, float(fault), 0.0]
    assert group.restarts == 1
    assert pool.workers[0] is healthy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error"), [(HANGS, RoleTimeout), (DIES, RoleDied)], ids=["hangs", "dies"]
)
def test_a_worker_that_fails_again_ends_the_batch_with_its_tasks_named(pool, fault, error):
    group = RewardGroup(pool, deadline_s=DEADLINE_S, start_deadline_s=120)
    group.ready()
    began = time.monotonic()
    with pytest.raises(error, match=r"second time; its share of the batch: 2 rollouts of tasks 100, 101"):
        group.score(rollouts([0, fault, 1, 1]))
    assert time.monotonic() - began < 2 * DEADLINE_S + 120
    assert group.restarts == 1
