"""Compiled kernels around the matrix products give the losses and gradients of the eager ones; other lengths compile nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from learner_models import VOCAB, random_groups, tiny_model
from torch._dynamo.utils import counters

from r0.actors.learner import attention, fused
from r0.actors.learner.fused import fuse
from r0.actors.learner.networks import add_adapters
from r0.actors.learner.policy import CriticModel, PolicyModel, run_row, token_logprobs
from r0.actors.learner.rows import padded_rows, shared_rows
from r0.config import StageAConfig
from r0.errors import UserError


def loss_and_gradients(module, rows):
    module.zero_grad()
    total = 0.0
    for row in rows:
        out = run_row(module, row)
        loss = (out[0] if isinstance(out, tuple) else out).sin().sum()
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def check(eager, compiled, rows):
    (want, want_grads), (got, got_grads) = loss_and_gradients(eager, rows), loss_and_gradients(compiled, rows)
    assert abs(got - want) <= 1e-5 * max(1.0, abs(want))
    assert got_grads.keys() == want_grads.keys()
    largest = max(float(grad.abs().max()) for grad in want_grads.values())
    for name, grad in want_grads.items():
        torch.testing.assert_close(got_grads[name], grad, atol=1e-5 * max(1.0, largest), rtol=1e-5)
    assert largest > 1e-3


@pytest.mark.parametrize("kind", [pytest.param("qwen2", marks=pytest.mark.slow), "qwen3"])
def test_losses_and_gradients_are_those_of_eager_kernels(kind):
    model = tiny_model(kind).train()
    other = copy.deepcopy(model)
    norms = 5 if kind == "qwen2" else 9
    assert fuse(other) == norms + 2 + 2  # two layers: an MLP and an attention each
    groups = random_groups([(9, [4, 7, 7, 2]), (5, [3, 3]), (12, [6])])
    for name, rows in ((attention.NAME, shared_rows(groups, 30)), ("sdpa", padded_rows(groups, 30))):
        for each in (model, other):
            each.set_attn_implementation(name)
        check(PolicyModel(model, 0.7, 6), PolicyModel(other, 0.7, 6, fused=True), rows)
    for each in (model, other):
        each.gradient_checkpointing_enable({"use_reentrant": False})
    check(PolicyModel(model, 0.7, 6), PolicyModel(other, 0.7, 6, fused=True), padded_rows(groups, 30))


def test_adapters_and_critics_learn_the_same():
    config = StageAConfig(algo="grpo", learner={"lora": {"r": 4}})
    adapted = add_adapters(tiny_model(), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    other = copy.deepcopy(adapted)
    fuse(other)
    rows = padded_rows(random_groups([(9, [4, 7]), (5, [3, 3])]), 40)
    check(PolicyModel(adapted, 1.0, 6), PolicyModel(other, 1.0, 6, fused=True), rows)
    critic = CriticModel(tiny_model())
    torch.nn.init.normal_(critic.head.weight, std=0.2)
    second = copy.deepcopy(critic)
    fuse(second.model)
    check(critic, second, rows)


def test_rows_of_other_lengths_compile_nothing_anew():
    model = tiny_model("qwen3").train()
    fuse(model)
    model.set_attn_implementation(attention.NAME)
    module = PolicyModel(model, 1.0, 64, fused=True)  # no chunk of one position, which is compiled once more

    def graphs(shapes) -> int:
        before = counters["stats"]["unique_graphs"]
        loss_and_gradients(module, shared_rows(random_groups(shapes), 200))
        return counters["stats"]["unique_graphs"] - before

    graphs([(9, [4, 7])])
    assert [graphs([(prompt, [3 + prompt, 5])]) for prompt in range(10, 40, 5)] == [0] * 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_log_probabilities_entropies_and_gradients(dtype):
    torch.manual_seed(0)
    values, weight = 5 * torch.randn(9, VOCAB), torch.randn(9)
    found = []
    for fast in (False, True):
        logits = values.to(dtype).requires_grad_()
        logp, entropy = token_logprobs(logits, torch.arange(9), 0.6, fast)
        (logp * weight).sum().backward()
        assert not entropy.requires_grad
        found.append((logp.detach(), entropy, logits.grad.float()))
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5 if dtype == torch.float32 else 0.01)


def test_a_norm_of_another_formula_stays_as_it_is():
    class OddRMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.variance_epsilon = torch.nn.Parameter(torch.ones(8)), 1e-6

        def forward(self, x):
            return (1 + self.weight) * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    assert fuse(OddRMSNorm()) == 0


def test_a_machine_that_cannot_compile_is_one_sentence(monkeypatch):
    def fail(*_):
        raise RuntimeError("\nFailed to find C compiler.\nDetails")

    monkeypatch.setattr(fused, "compiled", lambda *_: fail)
    with pytest.raises(UserError, match=r"learner\.compile: .*Failed to find C compiler\.\); use false"):
        fuse(tiny_model())
