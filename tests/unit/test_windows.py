"""Sliding windows and chunks in shared-prefix rows: each layer sees what transformers' own masks let it see."""

from __future__ import annotations

import pytest
import torch
from learner_models import plain_logprobs, random_groups, windowed_model

from r0.actors.learner import attention, windows
from r0.actors.learner.policy import PolicyModel, run_row
from r0.actors.learner.probe import probe
from r0.actors.learner.rows import shared_rows

KINDS = ("mistral", "qwen2", "gemma3_text", "llama4_text")
GROUPS = random_groups([(9, [4, 7, 7, 2]), (5, [3, 3]), (12, [6]), (4, [1, 8, 5])])


@pytest.mark.parametrize(("window", "block"), [(1, 256), (4, 3), (7, 256), (200, 256)])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_and_gradients_are_those_of_the_model_on_each_sequence_alone(monkeypatch, kind, window, block):
    monkeypatch.setattr(windows, "BLOCK", block)
    model = windowed_model(kind, window)
    found = []
    for row in shared_rows(GROUPS, 60):
        model.set_attn_implementation(attention.NAME)
        logp_C, _ = run_row(PolicyModel(model, 0.7, 5), row)
        grads = torch.autograd.grad(logp_C.square().sum(), list(model.parameters()))
        model.set_attn_implementation("sdpa")
        want_C = torch.cat([plain_logprobs(model, GROUPS[g], s, 0.7) for g, s in row.items])
        want_grads = torch.autograd.grad(want_C.square().sum(), list(model.parameters()))
        torch.testing.assert_close(logp_C, want_C, atol=1e-5, rtol=0)
        for a, b in zip(grads, want_grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        found.append(want_C.detach())
    unlimited = windowed_model(kind, 200)  # the test would see a window that is ignored
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        all_C = torch.cat([plain_logprobs(unlimited, GROUPS[g], s, 0.7) for row in shared_rows(GROUPS, 60) for g, s in row.items])
    assert bool((torch.cat(found) - all_C).abs().max() > 1e-3) == (window < 200)


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_lets_windows_share_prefixes(kind):
    model = windowed_model(kind, 100)
    assert probe(model, 1.0) == ""
    held = [vars(one).get(name) for one in model.modules() for name in ("sliding_window", "attention_chunk_size")]
    assert {*held, model.config.get_text_config().to_dict().get("sliding_window")} <= {None, 100}


def test_the_keys_of_a_block_are_those_within_its_reach(monkeypatch):
    sizes, sdpa = [], windows.sdpa

    def noted(q, k, v, **options):
        sizes.append((q.shape[2], k.shape[2]))
        return sdpa(q, k, v, **options)

    monkeypatch.setattr(windows, "sdpa", noted)
    q, k = torch.randn(1, 2, 600, 4), torch.randn(1, 2, 1000, 4)
    windows.windowed_attention(q, k, k, windows.Window(10, chunked=False), {})
    assert sizes == [(256, 265), (256, 265), (88, 97)]
