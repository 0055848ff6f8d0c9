"""Bytes of real DeepSpeed engines on CPU tensors equal the estimates of ``r0.actors.memory`` within 5 %."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from memory_ranks import count

from r0.actors.memory.learner import learner_rank
from r0.actors.memory.shape import ModelShape
from r0.actors.memory.states import BUCKET, states
from r0.config import StageAConfig
from tests.helpers import tiny_model

pytestmark = pytest.mark.ray

# Buckets of gradients that are there just before the step; those of ZeRO 2 have gone by then.
HELD_BUCKETS = {(1, False), (3, False), (3, True)}
KINDS = [("grpo", 0), ("grpo", 4), ("ppo", 0)]  # and the rank of adapters
DTYPES = ("fp32", "bf16")


def settings(algo: str, stage: int, dtype: str, lora: int = 0, world: int = 1, offload: bool = False) -> dict:
    learner = {"zero_stage": stage, "dtype": dtype, "lora": {"r": lora}, "ranks": world, "offload_optimizer": offload}
    learner |= {"row_tokens": 64, "logprob_chunk": 16}
    return {
        "algo": algo, "kl_coef": 0.02 if algo == "ppo" else 0.0, "learning_rate": 1e-4, "batch_size": 2, "learner": learner,
        "sync": {"max_staleness": 1},
    }  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"), tied=False, vocab=2048, hidden=512)


def shape_of(folder: str) -> ModelShape:
    return ModelShape.of(json.loads((Path(folder) / "config.json").read_text()))


def compare(world: int, cases: list[tuple[str, int, str, int, bool]], model: str) -> None:
    """Every case's real bytes against the function's, within 5 %; a bucket's are exact."""
    shape = shape_of(model)
    wanted = [settings(algo, stage, dtype, lora, world, offload) for algo, stage, dtype, lora, offload in cases]
    for given, real in zip(wanted, count(wanted, model, world), strict=True):
        config = StageAConfig(**given)
        rank = learner_rank(config, shape, checkpointing=False, gpus=False)
        held = sum(one.held + one.host for one in rank.engines) + rank.reference
        assert held == pytest.approx(real.total - real.bucket, rel=0.05), given
        bf16, stage = config.learner.dtype == "bf16", config.learner.zero_stage
        if not config.learner.offload_optimizer:
            assert real.bucket == (sum(one.buckets for one in rank.engines) if (stage, bf16) in HELD_BUCKETS else 0), given


@pytest.mark.slow
def test_a_learner_rank_holds_the_estimated_bytes(model):
    cases = [("grpo", stage, "bf16", 0, False) for stage in range(4)]
    cases += [("grpo", 3, "bf16", 4, False), ("ppo", 2, "fp32", 0, False), ("grpo", 2, "bf16", 0, True)]
    compare(1, cases, model)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_one_rank_or_two_hold_the_estimated_bytes_in_every_combination(world, model):
    cases = [(algo, stage, dtype, lora, False) for dtype in DTYPES for stage in range(4) for algo, lora in KINDS]
    cases += [("grpo", stage, dtype, lora, True) for stage in (2, 3) for dtype in DTYPES for lora in (0, 4)]
    compare(world, cases, model)


def test_offloading_moves_gradients_masters_and_moments_to_the_host():
    there = states(1_000, 0, 2, 1, bf16=True, offload=True, largest=100)
    assert (there.held, there.host, there.buckets) == (2_200, 22_200, 2 * BUCKET)
