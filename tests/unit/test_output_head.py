"""Logits and scores of bfloat16 models are not rounded to bfloat16; gradients are those of a plain linear layer."""

from __future__ import annotations

import copy

import pytest
import torch
from learner_models import random_groups, tiny_model
from torch import nn

from r0.actors.learner.policy import PolicyModel, run_row
from r0.actors.learner.rows import padded_rows
from r0.storage.loading import load_model
from r0.storage.output_head import exact_logits, head_logits

POSITIONS, WIDTH, VOCAB = 5, 16, 40
STEP = 0.125  # of bfloat16 between 16 and 32


def factors(dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states and a head whose logits lie around 20, as those of trained models do."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator) + 4
    weight = torch.randn(VOCAB, WIDTH, generator=generator) * 0.05 + 0.3
    return hidden.to(dtype), weight.to(dtype), torch.randn(VOCAB, generator=generator).to(dtype)


def rounds(tensor: torch.Tensor) -> bool:
    """Whether bfloat16 would hold all values."""
    return bool(torch.equal(tensor.to(torch.bfloat16).to(tensor.dtype), tensor))


@pytest.mark.parametrize("bias", [False, True])
def test_the_logits_of_bfloat16_factors_are_their_float32_product(bias):
    hidden, weight, offset = factors(torch.bfloat16)
    logits = head_logits(hidden[None], weight, offset if bias else None)
    want = hidden.double() @ weight.double().t() + (offset.double() if bias else 0)
    assert logits.dtype == torch.float32
    assert logits.shape == (1, POSITIONS, VOCAB)
    assert float((logits[0] - want).abs().max()) < 1e-4
    assert float(want.min()) > 16
    rounded = nn.functional.linear(hidden, weight, offset if bias else None)
    assert float((rounded.double() - want).abs().max()) > STEP / 4


def test_gradients_are_those_of_a_linear_layer_in_bfloat16():
    hidden, weight, _ = (each.requires_grad_() for each in factors(torch.bfloat16))
    other = [hidden.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()]
    direction = torch.randn(POSITIONS, VOCAB, generator=torch.Generator().manual_seed(3))
    (head_logits(hidden, weight, None) * direction).sum().backward()
    (nn.functional.linear(*other).float() * direction).sum().backward()
    for one, want in ((hidden, other[0]), (weight, other[1])):
        assert one.grad.dtype == torch.bfloat16
        assert torch.equal(one.grad, want.grad)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, _ = factors(torch.bfloat16)
    head_logits(hidden.requires_grad_(), weight, None).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_under_autocast_the_factors_are_rounded_but_the_logits_are_not():
    hidden, weight, _ = (each.requires_grad_() for each in factors(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        logits = head_logits(hidden, weight, None)
    want = hidden.to(torch.bfloat16).double() @ weight.to(torch.bfloat16).double().t()
    assert logits.dtype == torch.float32
    assert float((logits - want).abs().max().detach()) < 1e-4
    logits.sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_models_are_left_as_they_are(dtype):
    model, ids = tiny_model().to(dtype).eval(), torch.arange(8)[None]
    other = copy.deepcopy(model)
    exact_logits(other)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, other(ids).logits)


def test_a_loaded_bfloat16_model_and_its_log_probabilities_are_not_rounded(tmp_path):
    from transformers import AutoModelForCausalLM

    model = tiny_model("qwen3")
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    model.save_pretrained(tmp_path)
    loaded = load_model(AutoModelForCausalLM, tmp_path, dtype=torch.bfloat16).eval()
    group = random_groups([(9, [6])])[0]
    ids = torch.tensor([[*group.prompt_ids, *group.completions[0].token_ids]])
    with torch.no_grad():
        logits = loaded(ids).logits
        hidden = loaded.model(ids).last_hidden_state[0]
        (row,) = padded_rows([group], 40)
        logp_C, _ = run_row(PolicyModel(loaded, 1.0, 4), row)
    assert logits.dtype == torch.float32
    assert not rounds(logits)
    want = (hidden.double() @ loaded.lm_head.weight.double().t()).log_softmax(-1)
    places, tokens = torch.arange(8, 14), ids[0, 9:]
    torch.testing.assert_close(logp_C.double(), want[places, tokens], atol=1e-3, rtol=0)
    assert float(logits.abs().max()) > 8


def test_a_classifiers_scores_are_float32_and_no_inner_layer_is_changed():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1
    )
    model = BertForSequenceClassification(config).to(torch.bfloat16).eval()
    exact_logits(model)
    assert [name for name, layer in model.named_modules() if "forward" in vars(layer)] == ["classifier"]
    with torch.no_grad():
        scores = model(torch.arange(12).view(4, 3)).logits
    assert scores.dtype == torch.float32
    assert not rounds(scores)
