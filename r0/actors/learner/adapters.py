"""The layers of a model that can have adapters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from r0.errors import UserError


def check_targets(model: nn.Module, names: Sequence[str] | None, section: str) -> None:
    """Check that the target modules can have adapters. None or empty: all linear layers, which every model has.

    Args:
        model: of transformers, before adapters are in it.
        names: as peft takes them: a module's name, or the end of it.
        section: of the adapters in the configuration.

    Raises:
        UserError: a name is that of no module, or of another one than a linear layer inside the model.
    """
    for name in names or ():
        found = [module for path, module in model.named_modules() if path == name or path.endswith(f".{name}")]
        if wrong := "no module" if not found else next(filter(None, (_not_a_layer(model, one) for one in found)), ""):
            raise UserError(
                f"{section}.target_modules: {name} is {wrong} of this {type(model).__name__}; adapters go on its linear layers: "
                f"{', '.join(_layers(model))}"
            )


def check_experts(model: nn.Module, zero_stage: int, section: str) -> None:
    """Check that adapters on stacked experts, which peft applies to the whole parameter, can be trained.

    Args:
        model: with adapters in it.
        zero_stage: of the training.
        section: of the adapters in the configuration.

    Raises:
        UserError: ZeRO 3 has split the parameters.
    """
    if zero_stage == 3 and any(hasattr(layer, "parameter_name") and hasattr(layer, "lora_A") for layer in model.modules()):
        raise UserError(
            f"{section}.target_modules: adapters on experts, which all linear layers include, do not work with ZeRO 3; name the "
            "layers of the attention (q_proj,k_proj,v_proj,o_proj), or use zero_stage=2"
        )


def _not_a_layer(model: nn.Module, module: nn.Module) -> str:
    """A description of a module that cannot have an adapter; empty for a linear layer inside the model."""
    if module is model.get_output_embeddings():
        return "the output head"
    if module is model.get_input_embeddings():
        return "the input embedding"
    return "" if isinstance(module, nn.Linear | Conv1D) else f"a {type(module).__name__}"


def _layers(model: nn.Module) -> list[str]:
    """The last parts of the names of layers that can have adapters, in the model's order."""
    paths = [path for path, module in model.named_modules() if path and not _not_a_layer(model, module)]
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
