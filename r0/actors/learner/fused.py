"""Fused kernels by ``torch.compile`` for the elementwise operations: norms, rotary embeddings, gated activations, and the
log-probabilities of the output head.

Only functions of tensors are compiled, never a module, so DeepSpeed's hooks, LoRA layers, gradient checkpointing and the
shared-prefix attention are unchanged. The number of tokens is dynamic: rows of other lengths cause no recompilation. Tested on
CPUs; the speed-up on a GPU has not been measured.

Dimensions: N tokens (or positions of the head), D width of a norm, I width of an MLP, V vocabulary, B lines, H heads, T tokens of
a line.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from r0.errors import UserError

VARIANTS = 32  # compiled variants per function: dtypes, widths, with and without gradients, frozen and trained weights
ROTARY = "apply_rotary_pos_emb"  # transformers' name, in each model's own file
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}  # relative to the largest value


@functools.cache
def compiled(function: Callable[..., Any], *dimensions: Sequence[int]) -> Callable[..., Any]:
    """``function``, compiled once per process; ``dimensions`` are the dynamic dimensions of each of its first arguments."""
    fast = torch.compile(function, dynamic=False, recompile_limit=VARIANTS, isolate_recompiles=True)

    def call(*arguments: Any) -> Any:
        for tensor, varying in zip(arguments, dimensions, strict=False):
            torch._dynamo.maybe_mark_dynamic(tensor, list(varying))
        return fast(*arguments)

    return call


def fuse(model: nn.Module) -> int:
    """Compile the elementwise operations of a transformers model in place. Returns the number of modules changed.

    A module is recognised by its attributes and changed only if the fused form gives the same result.

    Raises:
        UserError: ``torch.compile`` fails on this machine.
    """
    kinds: dict[tuple[str, str], bool] = {}  # by class and activation: whether the fused form is equivalent
    changed = 0
    for module in model.modules():
        forward = _fused_forward(module)
        if forward is None:
            continue
        kind = (type(module).__qualname__, type(getattr(module, "act_fn", None)).__qualname__)
        if kind not in kinds:
            kinds[kind] = _is_equivalent(module, forward)
        if kinds[kind]:
            module.forward = forward
            changed += 1
    return changed


def _fused_forward(module: nn.Module) -> types.MethodType | None:
    """The fused forward method for a module; None if there is none."""
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight") and hasattr(module, "variance_epsilon"):
        return types.MethodType(_norm_forward, module)
    if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return types.MethodType(_mlp_forward, module)
    own = type(module).forward
    if isinstance(own, types.FunctionType) and ROTARY in own.__code__.co_names and ROTARY in own.__globals__:
        rotate = compiled(own.__globals__[ROTARY], (0, 2), (0, 2), (0, 1), (0, 1))
        names = {**own.__globals__, ROTARY: rotate}  # for this copy of the method only
        copied = types.FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
        copied.__kwdefaults__ = own.__kwdefaults__
        return types.MethodType(copied, module)
    return None


def _is_equivalent(module: Any, forward: types.MethodType) -> bool:
    """Whether ``forward`` and the module agree on random values."""
    if forward.__func__ not in (_norm_forward, _mlp_forward):
        return True  # rotary embeddings: the model's own function, compiled
    weight = module.weight if hasattr(module, "variance_epsilon") else module.down_proj.weight.t()
    width = weight.shape[-1] if weight.dim() == 1 else module.gate_proj.in_features
    values = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    with torch.no_grad():
        expected = module.forward(values)
        try:
            actual = forward(values)
        except Exception as error:  # torch._dynamo.exc and torch._inductor.exc define dozens of classes
            raise UserError(f"learner.compile: torch.compile fails on this machine ({_reason(error)}); use false") from error
    return float((actual - expected).abs().max()) <= TOLERANCE.get(weight.dtype, 0.02) * float(expected.abs().max())


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _norm_forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    flat_ND = hidden_states.reshape(-1, hidden_states.shape[-1])
    return compiled(_rms_norm, (0,))(flat_ND, self.weight, self.variance_epsilon).view(hidden_states.shape)


def _rms_norm(x_ND: torch.Tensor, weight_D: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide_ND = x_ND.float()
    scale_N1 = torch.rsqrt(wide_ND.square().mean(-1, keepdim=True) + epsilon)
    return weight_D * (wide_ND * scale_N1).to(x_ND.dtype)


def _mlp_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    activation: Any = type(self.act_fn)
    both = compiled(_gating(activation), (0,), (0,))(gate.reshape(-1, gate.shape[-1]), up.reshape(-1, up.shape[-1]))
    return self.down_proj(both.view(gate.shape))


@functools.cache
def _gating(activation: Callable[[], Any]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    function = activation()

    def gate(gate_NI: torch.Tensor, up_NI: torch.Tensor) -> torch.Tensor:
        return function(gate_NI) * up_NI

    return gate


class FusedTokenLogProb(torch.autograd.Function):
    """Log-probability of one token per position, and the entropy, from logits [N, V] of any dtype.

    The only saved tensor of size [N, V] is the logits; the gradient is computed from them, in their dtype.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_NV: torch.Tensor, target_N: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both outputs [N] in float32."""
        logp_N, entropy_N, total_N = compiled(_token_logprobs, (0,), (0,))(logits_NV, target_N, temperature)
        ctx.save_for_backward(logits_NV, target_N, total_N)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor, _entropy: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """``∂ log p(y) / ∂ z = (1[y] − p) / temperature``."""
        logits_NV, target_N, total_N = ctx.saved_tensors
        gradient = compiled(_token_gradients, (0,), (0,), (0,), (0,))
        return gradient(logits_NV, target_N, total_N, grad_N, ctx.temperature), None, None


def _token_logprobs(
    logits_NV: torch.Tensor, target_N: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities, entropies and log-sums [N]."""
    scaled_NV = logits_NV.float() / temperature
    total_N = scaled_NV.logsumexp(-1)
    logp_NV = scaled_NV - total_N[:, None]
    return logp_NV.gather(1, target_N[:, None])[:, 0], -(logp_NV.exp() * logp_NV).sum(-1), total_N


def _token_gradients(
    logits_NV: torch.Tensor, target_N: torch.Tensor, total_N: torch.Tensor, grad_N: torch.Tensor, temperature: float
) -> torch.Tensor:
    p_NV = (logits_NV.float() / temperature - total_N[:, None]).exp()
    hit_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == target_N[:, None]
    return ((hit_NV.float() - p_NV) * (grad_N / temperature)[:, None]).to(logits_NV.dtype)
