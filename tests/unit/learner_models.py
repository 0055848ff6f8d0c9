"""Tiny random models and groups for the learner's tests."""

from __future__ import annotations

import random

import torch

from r0.records import TrainCompletion, TrainGroup

VOCAB = 61


def tiny_model(kind: str = "qwen2", tied: bool = False, seed: int = 0):
    """A float32 model of two layers whose weights are large enough for attention to matter."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    config_class, model_class, extra = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
        "llama": (LlamaConfig, LlamaForCausalLM, {}),
    }[kind]
    torch.manual_seed(seed)
    config = config_class(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        **extra,
    )
    return model_class(config).float()


def random_groups(shapes: list[tuple[int, list[int]]], seed: int = 0, logprob: float = -4.0) -> list[TrainGroup]:
    """Groups of (prompt length, completion lengths) with random tokens and rewards."""
    draw = random.Random(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCAB) for _ in range(n))

    def completion(n: int) -> TrainCompletion:
        return TrainCompletion(tokens(n), tuple(logprob + draw.uniform(-0.3, 0.3) for _ in range(n)), draw.random(), 0)

    return [TrainGroup(tokens(prompt), tuple(completion(n) for n in lengths)) for prompt, lengths in shapes]


def plain_logprobs(model, group: TrainGroup, sample: int, temperature: float) -> torch.Tensor:
    """Log-probabilities of one completion by the model's own forward on its tokens alone."""
    prompt, tokens = group.prompt_ids, group.completions[sample].token_ids
    logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
