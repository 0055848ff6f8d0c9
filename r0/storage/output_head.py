"""The output head of a bfloat16 model, with logits in float32.

Between 16 and 32, where the logits of trained models lie, bfloat16 has steps of 1/8: documents with different scores would be
tied, and log-probabilities of engine and learner would differ by that much. Weights and hidden states remain bfloat16; only their
product is not rounded (MiniMax-M1, 2025; vLLM calls it ``head_dtype=float32``).

Dimensions: N positions, D hidden width, V tokens of the vocabulary or labels of a classifier.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn


def exact_logits(model: Any) -> None:
    """Let a model give logits or scores in float32 whatever its dtype, in place. A head that is no linear layer, such as a
    quantized one, is left as it is.

    Args:
        model: of transformers, or a ``CrossEncoder``.
    """
    head = _head(model)
    if type(head) is nn.Linear:
        head.forward = types.MethodType(_forward, head)


def _head(model: Any) -> Any:
    """The output embedding of a language model; of another model the last linear layer outside its body. None if it has none."""
    if isinstance(model, nn.Sequential):  # a CrossEncoder: modules of sentence-transformers, the first around the model
        own = [layer for module in list(model)[1:] for layer in module.modules() if isinstance(layer, nn.Linear)]
        return own[-1] if own else _head(model[0].model)
    if (head := model.get_output_embeddings()) is not None:
        return head
    body = set(model.base_model.modules())
    return next((layer for layer in reversed(list(model.modules())) if isinstance(layer, nn.Linear) and layer not in body), None)


def _forward(self: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    return head_logits(hidden, self.weight, self.bias)


def head_logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Logits [..., V] of hidden states [..., D], at least in float32, with the gradients of a linear layer.

    Args:
        hidden: in the dtype of the weight; under autocast, in any.
        weight: [V, D].
        bias: [V], or None.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(low), weight.to(low)
    if weight.dtype.itemsize >= torch.float32.itemsize:
        return nn.functional.linear(hidden, weight, bias)
    logits = _Float32Product.apply(hidden.reshape(-1, hidden.shape[-1]), weight).view(*hidden.shape[:-1], -1)
    return logits if bias is None else logits + bias.float()


class _Float32Product(torch.autograd.Function):
    """``hidden · weightᵀ`` in float32 of factors in bfloat16. The gradients are computed in bfloat16, as those of ``linear``."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
        """[N, V] in float32."""
        ctx.save_for_backward(hidden_ND, weight_VD)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            if hidden_ND.is_cuda:  # without a float32 copy of the weight; only CUDA's kernels can
                return torch.mm(hidden_ND, weight_VD.t(), out_dtype=torch.float32)
            return hidden_ND.float() @ weight_VD.float().t()

    @staticmethod
    def backward(ctx: Any, grad_NV: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Gradients [N, D] and [V, D] in the dtype of the factors."""
        hidden_ND, weight_VD = ctx.saved_tensors
        grad_NV = grad_NV.to(weight_VD.dtype)
        wants_hidden, wants_weight = ctx.needs_input_grad
        return grad_NV @ weight_VD if wants_hidden else None, grad_NV.t() @ hidden_ND if wants_weight else None
