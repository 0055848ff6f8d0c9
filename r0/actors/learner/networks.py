"""The networks of a learner rank: policy, critic and reference model, loaded and put on DeepSpeed engines."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from r0.actors.learner import attention
from r0.actors.learner.adapters import check_experts, check_targets
from r0.actors.learner.checkpointing import decide_checkpointing
from r0.actors.learner.fused import fuse
from r0.actors.learner.policy import CriticModel, PolicyModel, adapters_off
from r0.actors.learner.probe import prefix_sharing_problem
from r0.actors.learner.zero import make_engine
from r0.config import RLConfig
from r0.storage.loading import load_model

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of a rank. ``policy`` and ``critic`` are DeepSpeed engines. ``frozen`` is a copy of the reference model; None
    if ``kl_coef`` is 0, or with LoRA, where the policy without its adapters is the reference."""

    policy: Any
    critic: Any | None
    frozen: nn.Module | None
    lora: bool
    shared_prefix: bool

    @contextlib.contextmanager
    def reference(self) -> Iterator[Any]:
        """The reference model; call it like the policy, without gradient."""
        if self.frozen is not None:
            yield self.frozen
            return
        if not self.lora:
            raise RuntimeError("no reference model was loaded, because kl_coef is 0")
        with adapters_off(self.policy.module):
            yield self.policy


def learner_dtype(config: RLConfig, device: torch.device) -> torch.dtype:
    """``learner.dtype``; auto is bf16 on a GPU and fp32 without."""
    chosen = config.learner.dtype
    if chosen == "auto":
        chosen = "bf16" if device.type == "cuda" else "fp32"
    return torch.bfloat16 if chosen == "bf16" else torch.float32


def load_networks(config: RLConfig, model_path: str, device: torch.device) -> Networks:
    """Load all networks from ``model_path`` and put the trained ones on engines.

    Raises:
        UserError: the model cannot be read or is of a kind that r0 does not train.
    """
    config = decide_checkpointing(config, model_path, device)
    dtype = learner_dtype(config, device)
    model = load_causal(model_path, dtype)
    wanted = config.learner.shared_prefix
    reason = prefix_sharing_problem(model, config.temperature, device, wanted)
    if reason and wanted:
        log.warning("%s cannot share prefixes in learner rows (%s); rows are padded instead", type(model).__name__, reason)
    model, shared = model.to(device), wanted and not reason
    implementation = attention.NAME if shared else model.config._attn_implementation
    frozen = None
    if config.kl_coef > 0 and not config.learner.lora.r:
        frozen = _policy(load_causal(model_path, dtype).to(device), implementation, config).requires_grad_(False).eval()
    critic = None
    if config.algo == "ppo":
        base = load_causal(model_path, dtype).to(device)
        critic = _engine(config, CriticModel(_prepare(base, implementation, config)).to(device), dtype)
    if config.learner.lora.r:
        model = add_adapters(model, config)
    policy = _engine(config, _policy(model, implementation, config), dtype)
    return Networks(policy, critic, frozen, config.learner.lora.r > 0, shared)


def load_causal(model_path: str, dtype: torch.dtype) -> Any:
    """A decoder language model on the CPU.

    Raises:
        UserError: it cannot be loaded whole.
    """
    from transformers import AutoModelForCausalLM

    return load_model(AutoModelForCausalLM, model_path, dtype=dtype)


def _prepare(model: Any, implementation: str, config: RLConfig) -> Any:
    model.set_attn_implementation(implementation)
    model.config.use_cache = False
    without_dropout(model)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.learner.compile and not fuse(model):
        log.warning("learner.compile: %s has no norm, gated activation or rotary embedding that r0 knows", type(model).__name__)
    return model


def without_dropout(model: nn.Module) -> None:
    """Switch off, in place, all that a model draws at random while it is trained: dropout, layer drop, a router's noise.

    The engines sample without, so the learner's log-probabilities would not be those of the sampled distribution. ``eval()`` will
    not do, because gradient checkpointing works in training mode only. The configuration, which is saved, stays as it is.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and (name == "p" if "Dropout" in type(module).__name__ else _is_noise(name)):
                setattr(module, name, 0.0)


def _is_noise(name: str) -> bool:
    return "drop" in name or "jitter" in name


def _policy(model: Any, implementation: str, config: RLConfig) -> PolicyModel:
    learner = config.learner
    return PolicyModel(_prepare(model, implementation, config), config.temperature, learner.logprob_chunk, learner.compile)


def _engine(config: RLConfig, module: nn.Module, dtype: torch.dtype) -> Any:
    learner = config.learner
    bf16 = dtype == torch.bfloat16
    return make_engine(module, learner.zero_stage, bf16, learner.max_grad_norm, learner.weight_decay, learner.offload_optimizer)


def add_adapters(model: Any, config: RLConfig) -> Any:
    """Put LoRA layers into ``model`` (in place) and freeze the rest; returns the same model.

    Raises:
        UserError: ``learner.lora.target_modules`` names another module than a linear layer inside this model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lora = config.learner.lora
    check_targets(model, lora.target_modules, "learner.lora")
    targets = list(lora.target_modules) if lora.target_modules else "all-linear"
    settings = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM", bias="none")
    inject_adapter_in_model(settings, model)
    check_experts(model, config.learner.zero_stage, "learner.lora")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        parameter.data = parameter.data.to(model.dtype)
    return model
