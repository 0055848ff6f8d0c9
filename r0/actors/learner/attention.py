"""Attention of shared-prefix rows: a prompt is causal, a completion attends to its prompt and itself. No T×T mask is built.

Registered with transformers under ``r0_shared_prefix``; the model passes its keyword argument ``r0_layout`` to the attention.
The G completions of a prompt are a batch: queries [G, W] against the keys ``[prompt, completion]`` [G, P+W] with a causal mask
aligned to the lower right. A GPU has a fast kernel for it; on a CPU the mask is one [W, P+W] tensor. Padding is at the end of a
completion, so no real token attends to it.

Dimensions: H query heads, K key heads, T tokens of the row, D head width, G completions of a prompt, P prompt tokens, W the
longest completion.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface

from r0.actors.learner.rows import Layout, Span
from r0.actors.learner.windows import Window, window_of, windowed_attention

NAME = "r0_shared_prefix"


class UnsupportedAttention(RuntimeError):
    """The model uses a feature that this attention does not support."""


def shared_prefix_attention(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    r0_layout: Layout | None = None,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention output [1, T, H, D] of a row.

    Raises:
        UnsupportedAttention: the model does not pass the layout, or it uses a mask, attention sinks, soft-capping or a position
            bias.
    """
    if r0_layout is None:
        raise UnsupportedAttention("the model does not pass keyword arguments to its attention")
    if attention_mask is not None:
        raise UnsupportedAttention("the model builds its own attention mask")
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise UnsupportedAttention(f"the model's attention uses {name}")
    heads, key_heads = query_1HTD.shape[1], key_1KTD.shape[1]
    grouped = heads != key_heads
    if grouped and not _kernel_groups_heads(query_1HTD):
        key_1KTD = key_1KTD.repeat_interleave(heads // key_heads, dim=1)
        value_1KTD = value_1KTD.repeat_interleave(heads // key_heads, dim=1)
        grouped = False
    window = window_of(module, sliding_window)
    parts = []
    for span in r0_layout.spans:
        end = span.start + span.prompt + span.completion_tokens
        q, k, v = (x[:, :, span.start : end] for x in (query_1HTD, key_1KTD, value_1KTD))
        options = {"scale": scaling, "dropout_p": dropout, "enable_gqa": grouped}
        longest = span.prompt + max(span.lengths, default=0)
        short = window is not None and longest > window.tokens
        parts += _span_attention(q, k, v, span, options, window if short else None)
    return (torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]), None


def _kernel_groups_heads(query: torch.Tensor) -> bool:
    """Whether the fast kernel supports fewer key heads than query heads (on a GPU only in half precision)."""
    return not query.is_cuda or query.dtype in (torch.bfloat16, torch.float16)


def _span_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, span: Span, options: dict, window: Window | None
) -> list[torch.Tensor]:
    """Outputs [1, ·, H, D] of a span in token order; ``q`` [1, H, P+C, D], ``k`` and ``v`` [1, K, P+C, D]."""

    def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return sdpa(q, k, v, is_causal=True, **options) if window is None else windowed_attention(q, k, v, window, options)

    if span.gather_GW is None:  # one completion
        return [causal(q, k, v).transpose(1, 2)]
    prompt = span.prompt
    prompt_out = causal(q[:, :, :prompt], k[:, :, :prompt], v[:, :, :prompt])
    q_GHWD, k_GKSD, v_GKSD = _completions(q, span), _with_prompt(k, span), _with_prompt(v, span)
    if window is None:
        out_GHWD = _lower_right(q_GHWD, k_GKSD, v_GKSD, span, options)
    else:
        out_GHWD = windowed_attention(q_GHWD, k_GKSD, v_GKSD, window, options)
    out_CHD = out_GHWD.transpose(1, 2).flatten(0, 1)
    if span.valid_C is not None:
        out_CHD = out_CHD.index_select(0, span.valid_C)
    return [prompt_out.transpose(1, 2), out_CHD[None]]


def _completions(x_1NTD: torch.Tensor, span: Span) -> torch.Tensor:
    """Completions as a batch: [1, N, P+C, D] → [G, N, W, D]."""
    flat_NCD = x_1NTD[0, :, span.prompt :]
    heads, _, width = flat_NCD.shape
    if span.valid_C is None:  # equal lengths: a view is enough
        return flat_NCD.unflatten(1, (len(span.lengths), -1)).transpose(0, 1)
    assert span.gather_GW is not None  # for the type checker: callers have checked it
    picked = flat_NCD.index_select(1, span.gather_GW.flatten())
    return picked.view(heads, *span.gather_GW.shape, width).transpose(0, 1)


def _with_prompt(x_1NTD: torch.Tensor, span: Span) -> torch.Tensor:
    """Keys or values that completions attend to: [1, N, P+C, D] → [G, N, P+W, D]."""
    prompt = x_1NTD[:, :, : span.prompt].expand(len(span.lengths), -1, -1, -1)
    return torch.cat([prompt, _completions(x_1NTD, span)], dim=2)


def _lower_right(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, span: Span, options: dict) -> torch.Tensor:
    """Query w attends to keys 0 … P+w."""
    if q.is_cuda:
        return sdpa(q, k, v, causal_lower_right(q.shape[2], k.shape[2]), **options)
    mask = span.masks.get((q.device, q.dtype))
    if mask is None:
        hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(span.prompt + 1)
        mask = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill(hidden, float("-inf"))
        span.masks[q.device, q.dtype] = mask
    return sdpa(q, k, v, attn_mask=mask, **options)


AttentionInterface.register(NAME, shared_prefix_attention)
