"""Real DeepSpeed: a learner whose optimizers went to the CPU and back learns as if they had stayed."""

from __future__ import annotations

import pytest
import torch
from learner_ranks import random_groups, tiny_model

from r0.actors.learner.worker import Learner
from r0.config import StageAConfig

pytestmark = pytest.mark.ray

BATCHES = [random_groups([(9, [4]), (5, [3]), (12, [6]), (4, [8])], seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
    return str(folder)


def trained(model: str, stage: int, dtype: str, turns: bool, resume: str = "") -> tuple[Learner, list[dict]]:
    """A PPO learner (policy and critic) after its updates; with ``turns`` it makes room after each, as on a shared card."""
    learner_keys = {"zero_stage": stage, "dtype": dtype, "row_tokens": 40, "logprob_chunk": 7}
    config = StageAConfig(algo="ppo", batch_size=4, learning_rate=1e-3, learner=learner_keys)
    learner = Learner(config, model, len(BATCHES), device="cpu")
    figures = []
    if turns:
        learner.offload()
    for number, batch in enumerate(BATCHES):
        if turns:
            learner.reload()
        figures.append(learner.update(batch, 0))
        if turns:
            learner.offload()
            if resume and number == 1:
                learner.save(resume)
                learner.load(resume)
    return learner, figures


OTHERS = [(2, "bf16"), (1, "fp32"), (2, "fp32"), (0, ""), (1, "")]
SLOW = [pytest.param(stage, moves, marks=pytest.mark.slow) for stage, moves in OTHERS]


@pytest.mark.parametrize(("stage", "moves"), [(3, ""), *SLOW])
def test_a_learner_that_takes_turns_ends_with_the_weights_of_one_that_does_not(stage, moves, model, tmp_path):
    dtype = moves or ("fp32" if stage == 0 else "bf16")
    alone, want = trained(model, stage, dtype, turns=False)
    expected = {name: tensor.clone() for name, tensor in alone.weights()}
    alone.close()
    learner, found = trained(model, stage, dtype, turns=True, resume=str(tmp_path / "kept"))
    assert len(learner._offloaded) == (2 if moves else 0)  # policy and critic, where DeepSpeed can move them
    while_offloaded = {name: tensor.clone() for name, tensor in learner.weights()}  # what a sync sends
    learner.close()
    assert found == want
    assert all(torch.equal(while_offloaded[name], tensor) for name, tensor in expected.items())
