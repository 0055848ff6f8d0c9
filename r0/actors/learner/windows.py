"""Attention of layers that do not see all that stands before: sliding windows and chunks.

Queries are taken in blocks against the keys that one of them sees, so that the mask is a block wide and a window long at most.

Dimensions: N sequences, H query heads, K key heads, Q queries, S positions, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as sdpa

BLOCK = 256
"""Queries that are taken at one time."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a position of a layer sees: the last ``tokens`` positions, itself among them; or its chunk, up to itself."""

    tokens: int
    chunked: bool

    def first(self, position: int) -> int:
        """The first position that ``position`` sees."""
        return position // self.tokens * self.tokens if self.chunked else max(0, position - self.tokens + 1)

    def hidden(self, query_Q1: torch.Tensor, key_S: torch.Tensor) -> torch.Tensor:
        """Whether a key's position is out of a query's sight [Q, S]."""
        if self.chunked:
            far_QS = key_S // self.tokens != query_Q1 // self.tokens
        else:
            far_QS = key_S <= query_Q1 - self.tokens
        return far_QS | (key_S > query_Q1)


def window_of(module: nn.Module, sliding_window: int | None) -> Window | None:
    """The window of an attention layer; None: it sees all that stands before.

    Args:
        module: the layer. transformers hands a sliding window to the attention, chunks it only puts into a mask.
        sliding_window: as handed over.
    """
    if sliding_window is not None:
        return Window(sliding_window, chunked=False)
    config = getattr(module, "config", None)
    chunk, types = getattr(config, "attention_chunk_size", None), getattr(config, "layer_types", None)
    if chunk is None or (types and types[getattr(module, "layer_idx", 0)] != "chunked_attention"):
        return None
    return Window(chunk, chunked=True)


def windowed_attention(
    q_NHQD: torch.Tensor, k_NKSD: torch.Tensor, v_NKSD: torch.Tensor, window: Window, options: dict
) -> torch.Tensor:
    """Attention [N, H, Q, D] of the last Q of S positions; ``options`` are torch's."""
    count, size = q_NHQD.shape[2], k_NKSD.shape[2]
    if options.get("enable_gqa") and q_NHQD.is_cuda:  # no fast kernel there has both a mask and fewer key heads
        repeats = q_NHQD.shape[1] // k_NKSD.shape[1]
        k_NKSD, v_NKSD = k_NKSD.repeat_interleave(repeats, dim=1), v_NKSD.repeat_interleave(repeats, dim=1)
        options = {**options, "enable_gqa": False}
    parts = []
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        first, last = window.first(size - count + start), size - count + end
        position = torch.arange(first, last, device=q_NHQD.device)
        hidden = window.hidden(position[start - end :, None], position)
        mask = torch.zeros(hidden.shape, dtype=q_NHQD.dtype, device=q_NHQD.device).masked_fill(hidden, float("-inf"))
        keys = slice(first, last)
        parts.append(sdpa(q_NHQD[:, :, start:end], k_NKSD[:, :, keys], v_NKSD[:, :, keys], attn_mask=mask, **options))
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
