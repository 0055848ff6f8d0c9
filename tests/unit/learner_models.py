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


def windowed_model(kind: str, window: int):
    """Like ``tiny_model``, with windows of ``window`` tokens: sliding ones in the upper layer (``qwen2``), the lower
    (``gemma3_text``) or both (``mistral``), or chunks in the lower (``llama4_text``)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sliding, full = "sliding_attention", "full_attention"
    rope = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in ((sliding, 1e4), (full, 1e6))}
    extra = {
        "qwen2": {"sliding_window": window, "use_sliding_window": True, "layer_types": [full, sliding]},
        "gemma3_text": {"sliding_window": window, "layer_types": [sliding, full], "head_dim": 8, "rope_parameters": rope},
        "mistral": {"sliding_window": window},
        "llama4_text": {
            "attention_chunk_size": window, "no_rope_layers": [1, 0], "head_dim": 8, "moe_layers": [],
            "intermediate_size_mlp": 48,
        },
    }[kind]  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.1, tie_word_embeddings=False, **extra,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


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
