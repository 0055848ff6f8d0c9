"""r0-tiny's shape and its weights before training.

With the usual small random weights, a model of this size spends most of its training before it copies its first word. So the
weights are initialized for the task, as in mimetic initialization (Trockman & Kolter, 2023): a token attends to tokens like
itself (queries and keys start equal), and what it attends to is copied (the output starts as the transpose of the value). Two
heads of the first layer attend one and two tokens back, and two of the second match what those read. These are induction heads
(Olsson et al., 2022), which a model of this size otherwise needs most of its training to find.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

HIDDEN, LAYERS, HEADS, FEED_FORWARD = 128, 4, 4, 384
HEAD = HIDDEN // HEADS  # 32, the smallest head that vLLM's CPU attention takes
MATCH_SHARPNESS = 6.0  # of a matching head at the start
LOOK_BACK_BIAS = 5.0  # size of the biases of a look-back head; scores fall by about 3 nats for each token away
ROPE_THETA = 1e6
SLOW = 6  # rotary pairs from here on turn slowly enough to compare tokens a hundred positions apart


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A model with the weights that training starts from, drawn from torch's global generator."""
    end = tokenizer.eos_token_id
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=1 / math.sqrt(HIDDEN),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
        architectures=["Qwen2ForCausalLM"],
    )
    model = Qwen2ForCausalLM(config).float()
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id, do_sample=True)
    _mimetic_initialization(model)
    return model


@torch.no_grad()
def _mimetic_initialization(model: Qwen2ForCausalLM) -> None:
    layers = model.model.layers
    for depth, layer in enumerate(layers):
        layer.mlp.down_proj.weight.mul_(0.5)
        if depth > 0:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
            layer.self_attn.o_proj.weight.copy_(layer.self_attn.v_proj.weight.T)
    layers[0].mlp.down_proj.weight.mul_(0.2)  # what is looked back at must not drown
    layers[0].self_attn.o_proj.weight.mul_(0.2)
    # Three spaces at right angles: what of a token is passed on, and where it is written for each of the two distances.
    read_KH, *wrote = torch.linalg.qr(torch.randn(HIDDEN, 3 * HEAD))[0].T.split(HEAD)
    for head in (0, 1):
        _look_back_head(layers[0].self_attn, head, head + 1, read_KH, wrote[head])
    _matching_head(layers[1].self_attn, 0, read_KH, wrote[0])  # this token was one before that one
    _matching_head(layers[1].self_attn, 1, wrote[0], wrote[1])  # the token before this one was two before that one


def _look_back_head(attention: nn.Module, head: int, back: int, read_KH: Tensor, wrote_KH: Tensor) -> None:
    """Make ``head`` attend ``back`` tokens ago and write what it reads there into a space of its own."""
    rows = slice(head * HEAD, (head + 1) * HEAD)
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[rows].mul_(0.2)
    attention.k_proj.bias[rows] = _direction(0)
    attention.q_proj.bias[rows] = _direction(back)
    attention.v_proj.weight[rows] = read_KH
    attention.o_proj.weight[:, rows] = 0.35 * wrote_KH.T


def _matching_head(attention: nn.Module, head: int, query_KH: Tensor, key_KH: Tensor) -> None:
    """Make ``head`` attend where ``key_KH`` sees what ``query_KH`` sees here."""
    rows = slice(head * HEAD, (head + 1) * HEAD)
    slow_K1 = ((torch.arange(HEAD) % (HEAD // 2)) >= SLOW).float()[:, None]
    attention.q_proj.weight[rows] = MATCH_SHARPNESS * slow_K1 * query_KH
    attention.k_proj.weight[rows] = slow_K1 * key_KH


def _direction(back: int) -> Tensor:
    """[HEAD] A vector on the four fastest rotary pairs, turned so that a query with it prefers keys ``back`` tokens ago."""
    vector = torch.zeros(HEAD)
    for pair in range(4):
        angle = -back * ROPE_THETA ** (-2 * pair / HEAD)
        vector[pair] = LOOK_BACK_BIAS * math.cos(angle)
        vector[pair + HEAD // 2] = LOOK_BACK_BIAS * math.sin(angle)
    return vector
