"""The gap between a rollout engine's log-probabilities and those of a plain forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from r0.records import Sampled, SampleRequest


def load(folder: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    # Arithmetic: torch's kernel leaves a cap of attention logits out.
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


@torch.no_grad()
def gap(model: torch.nn.Module, asked: Sequence[SampleRequest], sampled: Sequence[Sampled], temperature: float = 1.0) -> float:
    """Largest difference over all sampled tokens, in nats."""
    worst = 0.0
    for request, one in zip(asked, sampled, strict=True):
        ids = torch.tensor([request.prompt_ids + one.token_ids])
        logprobs = (model(ids).logits[0].float() / temperature).log_softmax(-1)[len(request.prompt_ids) - 1 : -1]
        expected = logprobs.gather(1, ids[0, len(request.prompt_ids) :, None])[:, 0]
        worst = max(worst, (expected - torch.tensor(one.logprobs)).abs().max().item())
    return worst
