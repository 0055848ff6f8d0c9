"""What DeepSpeed makes of r0's settings in bf16: float32 sums of gradients, fused AdamW, no bf16 gradient kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from r0.actors.learner.zero import leave_distributed, make_engine, set_learning_rate, start_distributed
from r0.supervised.training.ranks import deepspeed_config

pytestmark = pytest.mark.ray

UPDATES, ROWS = 3, 2


@pytest.fixture
def group():
    start_distributed(0, 1, "127.0.0.1:0", torch.device("cpu"), timeout_s=60)
    yield
    leave_distributed()


def engine(monkeypatch: pytest.MonkeyPatch, immediate: bool):
    import deepspeed

    original = deepspeed.initialize

    def initialize(**options):
        if not immediate:
            options["config"]["bf16"].pop("immediate_grad_update", None)
        return original(**options)

    torch.manual_seed(0)
    # The two ends share a weight, as embedding and output head may.
    first, middle, last = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8, bias=False)
    module = nn.Sequential(first, nn.GELU(), middle, last).to(torch.bfloat16)
    tied = nn.Sequential(module, nn.Linear(8, 16, bias=False))
    tied[1].weight = first.weight
    with monkeypatch.context() as patch:
        patch.setattr(deepspeed, "initialize", initialize)
        return make_engine(tied, zero_stage=1, bf16=True, max_grad_norm=0.5, weight_decay=0.01)


def train(engine) -> tuple[list[torch.Tensor], list[int]]:
    """Losses and norms of all updates, then the weights; bf16 gradients alive after each backward pass."""
    torch.manual_seed(1)
    found, alive = [], []
    for _ in range(UPDATES):
        set_learning_rate(engine, 1e-2)
        for _ in range(ROWS):
            loss = engine(torch.randn(4, 8, dtype=torch.bfloat16)).square().mean()
            found.append(loss.detach().clone())
            engine.backward(loss)
            alive.append(sum(parameter.grad is not None for parameter in engine.module.parameters()))
        engine.step()
        found.append(torch.as_tensor(float(engine.get_global_grad_norm())))
    return [*found, *(parameter.detach().clone() for parameter in engine.module.parameters())], alive


def test_no_bf16_gradient_outlives_the_backward_pass_and_updates_are_bit_equal(group, monkeypatch):
    got, alive = train(engine(monkeypatch, immediate=True))
    want, alive_before = train(engine(monkeypatch, immediate=False))
    assert set(alive) == {0}
    assert min(alive_before) > 0
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert float(want[ROWS]) > 0  # the first norm


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_supervised_ranks_accumulate_in_float32_and_their_adamw_is_fused_but_for_zero_3(group, stage):
    import deepspeed

    config = deepspeed_config(stage, bf16=True)
    numbers = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    config["optimizer"]["params"] |= numbers  # what transformers fills in for "auto"
    config |= {"train_batch_size": 2, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 2}
    config["gradient_clipping"] = 1.0
    config["bf16"]["enabled"] = True
    module = nn.Linear(4, 4).to(torch.bfloat16)
    engine, *_ = deepspeed.initialize(model=module, model_parameters=module.parameters(), config=config, dist_init_required=False)
    assert engine.get_data_types() == (torch.bfloat16, torch.float32)
    assert bool(engine.basic_optimizer.param_groups[0]["fused"]) == (stage != 3)
