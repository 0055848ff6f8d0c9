"""The networks that a learner rank trains, as modules whose forward pass takes a row (rows.py).

Logits exist only for completion tokens, one chunk of positions at a time, and are recomputed in the backward pass. All
log-probabilities are those of the sampling distribution: logits are divided by the sampling temperature.

Dimensions: T tokens of a row (flat), C completion tokens, D hidden width, V vocabulary, N positions of a chunk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from r0.actors.learner.fused import FusedTokenLogProb
from r0.actors.learner.rows import Layout, Row
from r0.errors import UserError
from r0.storage.output_head import head_logits


class _TokenLogProb(torch.autograd.Function):
    """Log-probability of one token per position, and the entropy, from logits [N, V]; saves one [N, V] for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: torch.Tensor, target_N: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both outputs [N] in float32."""
        logp_NV = torch.log_softmax(logits_NV if temperature == 1.0 else logits_NV / temperature, dim=-1)
        logp_N = logp_NV.gather(1, target_N[:, None])[:, 0]
        p_NV = logp_NV.exp()
        entropy_N = -torch.linalg.vecdot(p_NV, logp_NV)
        ctx.save_for_backward(p_NV, target_N)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor, _entropy: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """``∂ log p(y) / ∂ z = (1[y] − p) / temperature``."""
        p_NV, target_N = ctx.saved_tensors
        scale_N1 = (grad_N / ctx.temperature)[:, None]
        grad_NV = p_NV.mul_(-scale_N1)  # in place: there is no other reference
        grad_NV.scatter_add_(1, target_N[:, None], scale_N1)
        return grad_NV, None, None


def token_logprobs(
    logits_NV: torch.Tensor, target_N: torch.Tensor, temperature: float, fused: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [N] of ``target_N`` (differentiable) and entropies [N] (not), in nats, float32; ``fused``: compiled."""
    if fused:
        return FusedTokenLogProb.apply(logits_NV, target_N, temperature)
    return _TokenLogProb.apply(logits_NV.float(), target_N, temperature)


def decoder_of(model: nn.Module) -> nn.Module:
    """The decoder of a ``…ForCausalLM``, without its output head."""
    # In Llama 4's text model the decoder's attribute is not the one that ``base_model_prefix`` names.
    return getattr(model, model.base_model_prefix, None) or model.model


class _Backbone(nn.Module):
    """Base of policy and critic: hidden states at the positions that predict completion tokens."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def _hidden_CD(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor | None, source_C: torch.Tensor, layout: Layout | None
    ) -> torch.Tensor:
        extra = {} if layout is None else {"r0_layout": layout}
        output = decoder_of(self.model)(input_ids=input_ids, position_ids=position_ids, use_cache=False, **extra)
        return output.last_hidden_state.flatten(0, 1).index_select(0, source_C)


class TokenHead(nn.Module):
    """The output head, applied to one chunk of positions at a time; each chunk's logits are recomputed in the backward pass.

    It is one module around all chunks because ZeRO-3 gathers the head's weight whenever a module that owns it is entered. With
    one module per chunk, ranks with different numbers of chunks would wait in different collectives (see
    ``external_parameters``).

    Args:
        linear: the model's output head (registered in the model, not here).
        temperature: of the sampling distribution.
        chunk: positions whose logits exist at the same time.
        fused: compile what follows the logits.
    """

    def __init__(self, linear: nn.Linear, temperature: float, chunk: int, fused: bool = False):
        super().__init__()
        self._linear = [linear]  # in a list: nn.Module would register it
        self.temperature = temperature
        self.chunk = chunk
        self.fused = fused

    @property
    def external_parameters(self) -> list[nn.Parameter]:
        """Parameters of other modules that ZeRO-3 must gather for this one."""
        return list(self._linear[0].parameters())

    def forward(self, hidden_CD: torch.Tensor, target_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies [C], float32."""
        weight, bias = self._linear[0].weight, self._linear[0].bias

        def chunk(hidden_ND: torch.Tensor, target_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return token_logprobs(head_logits(hidden_ND, weight, bias), target_N, self.temperature, self.fused)

        logps, entropies = [], []
        for hidden_ND, target_N in zip(hidden_CD.split(self.chunk), target_C.split(self.chunk), strict=True):
            if torch.is_grad_enabled():
                found = checkpoint(
                    chunk, hidden_ND, target_N, use_reentrant=False, preserve_rng_state=False, determinism_check="none"
                )
            else:
                found = chunk(hidden_ND, target_N)
            logps.append(found[0])
            entropies.append(found[1])
        return torch.cat(logps), torch.cat(entropies)


def _logits_divisor(model: Any) -> float:
    """What a model divides the logits of its head by (Granite; Cohere multiplies them): another temperature."""
    config = model.config.get_text_config()
    return (getattr(config, "logits_scaling", None) or 1.0) / (getattr(config, "logit_scale", None) or 1.0)


class PolicyModel(_Backbone):
    """A causal language model that returns log-probabilities of completion tokens.

    Args:
        model: a transformers ``…ForCausalLM`` (with or without injected LoRA layers).
        temperature: of the sampling distribution.
        chunk: positions whose logits exist at the same time.
        fused: compile what follows the logits.

    Raises:
        UserError: the model has no plain linear output head.
    """

    def __init__(self, model: nn.Module, temperature: float, chunk: int, fused: bool = False):
        super().__init__(model)
        linear = model.get_output_embeddings()
        if type(linear) is not nn.Linear:
            raise UserError(
                f"{type(model).__name__}: the output head is {type(linear).__name__}, not a plain linear layer; r0 trains "
                "decoder language models (…ForCausalLM), with adapters on other layers than the head"
            )
        self.head = TokenHead(linear, temperature * _logits_divisor(model), chunk, fused)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None,
        source_C: torch.Tensor,
        target_C: torch.Tensor,
        layout: Layout | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities [C] and entropies [C] (without gradient) of a row's completion tokens, float32."""
        return self.head(self._hidden_CD(input_ids, position_ids, source_C, layout), target_C)


class CriticModel(_Backbone):
    """A backbone with a scalar head: the value at each position that predicts a completion token.

    Args:
        model: a transformers ``…ForCausalLM``; its output head is removed.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        hidden = model.get_output_embeddings().weight
        width = getattr(hidden, "ds_shape", hidden.shape)[1]
        model.set_output_embeddings(nn.Identity())
        # Zero initialization: the first values are exactly 0, and the head's gradient is still not 0.
        self.head = nn.Linear(width, 1, dtype=hidden.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None,
        source_C: torch.Tensor,
        target_C: torch.Tensor,
        layout: Layout | None = None,
    ) -> torch.Tensor:
        """Values [C], float32."""
        return self.head(self._hidden_CD(input_ids, position_ids, source_C, layout))[:, 0].float()


def run_row(module: nn.Module, row: Row) -> Any:
    """Apply ``module`` (a policy, a critic, or its DeepSpeed engine) to a row."""
    return module(row.input_ids, row.position_ids, row.source_C, row.target_C, layout=row.layout)


@contextlib.contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Disable the LoRA adapters in the block: without them, the policy is its own reference model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in layers:  # not enable_adapters(False): it changes requires_grad too, which DeepSpeed does not expect
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
