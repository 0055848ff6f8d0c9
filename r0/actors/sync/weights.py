"""The learner's weights as other programs know them: Hugging Face names, LoRA merged, ZeRO-3 shards gathered a bucket at a time.

Iterating is a collective: all ranks iterate to the end, in lockstep. Only rank 0 gets the tensors; the others get empty ones.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class ParamMeta:
    """A tensor to come: Hugging Face name, type and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor, the parameters it is made of, and how."""

    meta: ParamMeta
    parts: tuple[nn.Parameter, ...]
    make: Callable[[], torch.Tensor]


class LearnerWeights:
    """The policy's weights.

    Args:
        model: the transformers model inside the policy's engine (LoRA layers injected, or not; ZeRO-3 or not).
        dtype: type to hand out; None: as they are.
        bucket_bytes: ZeRO-3 gathers (and LoRA merges) about this much at one time.
        rank: of this process.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None, bucket_bytes: int, rank: int):
        self.model = model
        self.rank = rank
        self.bucket_bytes = bucket_bytes
        self._dtype = dtype
        self._entries = self._list()

    def metadata(self) -> list[ParamMeta]:
        """Of every tensor, in the order of iteration; needs no other rank."""
        return [entry.meta for entry in self._entries]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, whole tensor). A tensor may be the live weight: read it, before the next update.

        Gathering happens on the current stream and is finished (copied out) before anything is handed over.
        """
        for bucket in self._buckets():
            parameters = [part for entry in bucket for part in entry.parts]
            with _gathered(parameters) as was_sharded, torch.no_grad():
                out = [(entry.meta.name, self._tensor(entry, was_sharded)) for entry in bucket]
                if was_sharded and torch.cuda.is_available():
                    torch.cuda.current_stream().synchronize()
            yield from out

    def _tensor(self, entry: _Entry, was_sharded: bool) -> torch.Tensor:
        if self.rank:
            return torch.empty(0, dtype=entry.meta.dtype)
        made = entry.make()
        tensor = made.to(entry.meta.dtype)
        return tensor.clone() if was_sharded and tensor.data_ptr() == made.data_ptr() and len(entry.parts) == 1 else tensor

    def _buckets(self) -> Iterator[list[_Entry]]:
        bucket: list[_Entry] = []
        size = 0
        for entry in self._entries:
            if bucket and size + entry.meta.nbytes > self.bucket_bytes:
                yield bucket
                bucket, size = [], 0
            bucket.append(entry)
            size += entry.meta.nbytes
        if bucket:
            yield bucket

    def _list(self) -> list[_Entry]:
        layers = {name: module for name, module in self.model.named_modules() if hasattr(module, "lora_A")}
        entries = []
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            owner = next((layer for layer in _parents(name) if layer in layers), None)
            plain = name.replace(".base_layer.", ".")
            if owner is not None and name == f"{owner}.base_layer.weight":
                entries.append(self._entry(plain, parameter, layers[owner]))
            elif owner is None or name.startswith(f"{owner}.base_layer."):
                entries.append(self._entry(plain, parameter, None))
        return entries

    def _entry(self, name: str, parameter: nn.Parameter, layer: Any) -> _Entry:
        meta = ParamMeta(name, self._dtype or parameter.dtype, tuple(getattr(parameter, "ds_shape", parameter.shape)))
        if layer is None:
            return _Entry(meta, (parameter,), lambda: parameter.detach())
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        return _Entry(meta, (parameter, a, b), lambda: _merged(parameter, a, b, layer))


def _merged(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, layer: Any) -> torch.Tensor:
    """``W + (α / r) B A`` (Hu et al., 2021), computed in float32."""
    delta = b.float() @ a.float() * layer.scaling["default"]
    return weight.detach().float() + (delta.T if layer.fan_in_fan_out else delta)


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:end])


@contextlib.contextmanager
def _gathered(parameters: list[nn.Parameter]) -> Iterator[bool]:
    """Whole ZeRO-3 parameters inside the block; yields whether they were sharded."""
    sharded = list({id(p): p for p in parameters if hasattr(p, "ds_id")}.values())
    if not sharded:
        yield False
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded):
        yield True


def save_hf(weights: LearnerWeights, model_path: str, folder: Path) -> None:
    """Write a Hugging Face folder: merged weights, configurations, tokenizer, and ``adapter/`` where there is LoRA. All ranks.

    Args:
        weights: of the policy.
        model_path: where tokenizer and generation settings come from.
        folder: made by rank 0.
    """
    state = {}
    for name, tensor in weights:
        if not weights.rank:
            state[name] = tensor.to("cpu", copy=True).contiguous()
    adapter = _adapter_state(weights)
    if weights.rank:
        return
    from transformers import AutoModelForCausalLM

    source = weights.model
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(source.config, dtype=source.dtype)
    if source.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    shell.config.use_cache = True
    shell.save_pretrained(folder, state_dict=state)
    _copy_generation_settings(model_path, folder)
    _copy_tokenizer(model_path, folder)
    if adapter:
        _save_adapter(source, adapter, model_path, folder / "adapter")


def _adapter_state(weights: LearnerWeights) -> dict[str, torch.Tensor]:
    """LoRA matrices under peft's names; small, so gathered at once."""
    named = {name: p for name, p in weights.model.named_parameters() if "lora_" in name}
    with _gathered(list(named.values())):
        if weights.rank:
            return {}
        return {f"base_model.model.{n.replace('.default.', '.')}": p.detach().to("cpu", copy=True) for n, p in named.items()}


def _save_adapter(model: Any, state: dict[str, torch.Tensor], model_path: str, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = model_path
    settings.inference_mode = True
    settings.save_pretrained(folder)
    save_file({name: t.contiguous() for name, t in state.items()}, folder / "adapter_model.safetensors", {"format": "pt"})


def _copy_generation_settings(model_path: str, folder: Path) -> None:
    """As they are: transformers refuses to save some settings that it loads."""
    from transformers.utils import cached_file

    with contextlib.suppress(OSError):  # the model has none; what save_pretrained wrote stays
        shutil.copyfile(cached_file(model_path, "generation_config.json"), folder / "generation_config.json")


def _copy_tokenizer(model_path: str, folder: Path) -> None:
    """The tokenizer's files as they are where the model is a folder, else saved anew from the Hub's."""
    source = Path(model_path)
    names = ("tokenizer*", "special_tokens_map.json", "chat_template*", "vocab.*", "merges.txt", "added_tokens.json")
    if source.is_dir():
        for path in sorted(path for name in names for path in source.glob(name) if path.is_file()):
            shutil.copyfile(path, folder / path.name)
        return
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(model_path).save_pretrained(folder)
