"""Reward workers as Ray actors: one that hangs or dies is replaced, and the order of the rollouts is kept."""

from __future__ import annotations

import pytest
import ray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from r0.actors.pool import Pool
from r0.actors.reward.group import RewardGroup
from r0.actors.reward.worker import RewardWorker
from r0.config.sections import RewardBase, RewardSection
from r0.errors import UserError
from r0.records import Finish, PointwiseTask, Prompt, Rollout, Sampled
from r0.storage.rollout_lines import each_packed
from tests.rollouts import score, scored_groups

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
    own = tokenizer()
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
            super().__init__(own, RewardSection(name="faulty"))

    made = Pool("reward worker", lambda index: ray_session.remote(FaultyWorker).options(num_cpus=1).remote(), 2)
    yield made
    made.close()


def rollouts(labels: list[int]) -> list[Rollout]:
    ids = tuple(tokenizer().encode("<think>a</think><answer>yes</answer>"))
    sampled = Sampled(ids, (0.0,) * len(ids), Finish.STOP, 0)
    return [Rollout(PointwiseTask(100 + i, "q", "d", label), i, 0, Prompt((1,)), sampled) for i, label in enumerate(labels)]


@pytest.mark.parametrize("fault", [HANGS_ONCE, pytest.param(DIES_ONCE, marks=pytest.mark.slow)], ids=["hangs", "dies"])
def test_a_worker_that_fails_once_is_replaced_and_the_order_is_kept(pool, fault):
    group = RewardGroup(pool, RewardBase(name="faulty", deadline_s=DEADLINE_S), start_deadline_s=120)
    group.ready()
    healthy = pool.workers[0]
    given = rollouts([0, 1, 1, fault, 0])
    scored = score(group, given)
    assert [one.rollout for one in scored] == given
    assert [one.total for one in scored] == [0.0, 1.0, 1.0, float(fault), 0.0]
    assert group.restarts == 1
    assert pool.workers[0] is healthy


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(HANGS, "did not answer within 5 s, twice", id="hangs", marks=pytest.mark.slow),
        pytest.param(DIES, "ended its process, twice", id="dies"),
    ],
)
def test_a_sample_that_stops_workers_again_is_named_or_worth_the_failure_value(pool, fault, said):
    section = RewardBase(name="faulty", deadline_s=DEADLINE_S)
    given = rollouts([0, 1, fault, 1, 0, 1])
    with pytest.raises(UserError, match=rf"reward 'faulty', task 102, sample 0: the reward {said}; mend it, or set reward.failu"):
        score(RewardGroup(pool, section, start_deadline_s=120), given)
    group = RewardGroup(pool, section.model_copy(update={"failure_value": -2.0}), start_deadline_s=120)
    scored = score(group, given)
    assert [one.rollout for one in scored] == given
    assert [one.total for one in scored] == [0.0, 1.0, -2.0, 1.0, 0.0, 1.0]
    assert [one.verdict for one in scored] == [scored[0].verdict] * len(given)


def test_stored_rollouts_are_the_same_whoever_packs_them_and_whoever_dies(pool):
    group = RewardGroup(pool, RewardBase(name="faulty", deadline_s=DEADLINE_S), start_deadline_s=120)
    groups = scored_groups(group, rollouts([0, 1, 1, 0, 1, 0, 0, 1, 1]))
    texts = {(1,): "the prompt"}
    here = b"".join(each_packed(3, groups, texts))
    assert b"".join(group.pack(3, groups, texts)) == here
    packing = group.pack(3, groups, texts)
    first = next(packing)
    ray.kill(pool.workers[1])
    assert first + b"".join(packing) == here
