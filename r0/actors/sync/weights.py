"""The learner's weights as checkpoints have them: their names, LoRA merged, ZeRO-3 shards gathered a bucket at a time.

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

from r0.actors.sync.checkpoint_format import CheckpointFormat, Group, ParamMeta
from r0.process.spans import span
from r0.storage.files import open_to_others
from r0.storage.loading import state_tying


@dataclass(frozen=True, slots=True)
class _Entry:
    """A weight (or buffer) of the model, what it is made of, and how."""

    meta: ParamMeta
    parts: tuple[torch.Tensor, ...]
    make: Callable[[], torch.Tensor]


class LearnerWeights:
    """The policy's weights under the names of checkpoints.

    Args:
        model: the transformers model inside the policy's engine (LoRA layers injected, or not; ZeRO-3 or not).
        dtype: of the returned tensors; None: unchanged.
        bucket_bytes: about as many bytes are gathered (ZeRO-3) and merged (LoRA) at a time.
        rank: of this process.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None, bucket_bytes: int, rank: int):
        self.model = model
        self.rank = rank
        self.bucket_bytes = bucket_bytes
        self._dtype = dtype
        self._entries = {entry.meta.name: entry for entry in self._list()}
        self._format = CheckpointFormat(model, [entry.meta for entry in self._entries.values()])

    def metadata(self) -> list[ParamMeta]:
        """Metadata of every tensor, in the order of iteration; not collective."""
        return [meta for group in self._format.groups for meta in group.stored]

    def second_names(self) -> list[str]:
        """Names of tensors that are an earlier one once more, such as an output head that is the input embedding."""
        seen: set[int] = set()
        again: list[str] = []
        for group in self._format.groups:
            parts = {id(self._entries[name].parts[0]) for name in group.own}
            again += [meta.name for meta in group.stored] if parts <= seen else []
            seen |= parts
        return again

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, full tensor). A tensor may be the weight itself: do not modify it, and read it before the next update.

        Gathering runs on the current stream and is complete (copied) before a tensor is yielded.
        """
        for bucket in self._buckets():
            parameters = [part for group in bucket for name in group.own for part in self._entries[name].parts]
            with span("learner", "gather"), _gathered(parameters) as was_sharded, torch.no_grad():
                out = [pair for group in bucket for pair in self._tensors(group, was_sharded)]
                if was_sharded and torch.cuda.is_available():
                    torch.cuda.current_stream().synchronize()
            yield from out

    def _tensors(self, group: Group, was_sharded: bool) -> list[tuple[str, torch.Tensor]]:
        if self.rank:
            return [(meta.name, torch.empty(0, dtype=meta.dtype)) for meta in group.stored]
        own = [self._tensor(self._entries[name], was_sharded) for name in group.own]
        return [(meta.name, t) for meta, t in zip(group.stored, self._format.to_checkpoint(group, own), strict=True)]

    def _tensor(self, entry: _Entry, was_sharded: bool) -> torch.Tensor:
        made = entry.make()
        tensor = made.to(entry.meta.dtype)
        return tensor.clone() if was_sharded and tensor.data_ptr() == made.data_ptr() and len(entry.parts) == 1 else tensor

    def _buckets(self) -> Iterator[list[Group]]:
        bucket: list[Group] = []
        size = 0
        for group in self._format.groups:
            nbytes = sum(meta.nbytes for meta in group.stored)
            if bucket and size + nbytes > self.bucket_bytes:
                yield bucket
                bucket, size = [], 0
            bucket.append(group)
            size += nbytes
        if bucket:
            yield bucket

    def _list(self) -> list[_Entry]:
        adapted = {id(weight): layer for weight, layer in _adapted(self.model)}
        state = self.model.state_dict(keep_vars=True)  # a tied head is there twice; buffers such as a router's bias are there too
        return [
            self._entry(name.replace(".base_layer", ""), tensor, adapted.get(id(tensor)))
            for name, tensor in state.items()
            if "lora_" not in name
        ]

    def _entry(self, name: str, tensor: torch.Tensor, layer: Any) -> _Entry:
        dtype = self._dtype if isinstance(tensor, nn.Parameter) else None
        meta = ParamMeta(name, dtype or tensor.dtype, tuple(getattr(tensor, "ds_shape", tensor.shape)))
        if layer is None:
            return _Entry(meta, (tensor,), lambda: tensor.detach())
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        return _Entry(meta, (tensor, a, b), lambda: tensor.detach().float() + _delta(a, b, layer))


def _adapted(model: nn.Module) -> Iterator[tuple[nn.Parameter, Any]]:
    """Each weight that has an adapter, and the adapter's layer: a linear layer, or one around a single parameter of a module."""
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            yield getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight")), layer


def _delta(a: torch.Tensor, b: torch.Tensor, layer: Any) -> torch.Tensor:
    """``(α / r) B A`` (Hu et al., 2021), computed in float32; a stack of experts has a B and an A for each."""
    a, b = a.float(), b.float() * layer.scaling["default"]
    experts = getattr(layer, "num_experts", 1)
    if experts > 1:
        delta = torch.einsum("ore,eri->eoi", b.unflatten(1, (-1, experts)), a.unflatten(0, (experts, -1)))
        return delta if layer._did_swap_in_out_features else delta.transpose(1, 2)
    return (b @ a).T if layer.fan_in_fan_out else b @ a


@contextlib.contextmanager
def _gathered(parameters: list[torch.Tensor]) -> Iterator[bool]:
    """Gather ZeRO-3 parameters in the block; yields whether they were sharded."""
    sharded = list({id(p): p for p in parameters if hasattr(p, "ds_id")}.values())
    if not sharded:
        yield False
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(sharded):
        yield True


def save_hf(weights: LearnerWeights, model_path: str, folder: Path) -> None:
    """Write a Hugging Face folder: merged weights, configurations, tokenizer, and with LoRA ``adapter/``; collective.

    Args:
        weights: of the policy.
        model_path: source of tokenizer and generation settings.
        folder: created by rank 0.
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
    state_tying(source)
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(source.config, dtype=source.dtype)
    for name in weights.second_names():
        del state[name]
    shell.config.use_cache = True
    shell.save_pretrained(folder, state_dict=state, save_original_format=False)  # it has that form
    _copy_generation_settings(model_path, folder)
    _copy_tokenizer(model_path, folder)
    if adapter:
        _save_adapter(source, adapter, model_path, folder / "adapter")
    open_to_others(folder)


def _adapter_state(weights: LearnerWeights) -> dict[str, torch.Tensor]:
    """LoRA matrices under peft's names; all gathered at once, because they are small."""
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
    """Copy the file unchanged, because transformers refuses to save some settings that it loads."""
    from transformers.utils import cached_file

    with contextlib.suppress(OSError):  # the model has none; what save_pretrained wrote stays
        shutil.copyfile(cached_file(model_path, "generation_config.json"), folder / "generation_config.json")


def _copy_tokenizer(model_path: str, folder: Path) -> None:
    """Copy the tokenizer's files unchanged if the model is a folder; else load it from the Hub and save it."""
    source = Path(model_path)
    names = ("tokenizer*", "special_tokens_map.json", "chat_template*", "vocab.*", "merges.txt", "added_tokens.json")
    if source.is_dir():
        for path in sorted(path for name in names for path in source.glob(name) if path.is_file()):
            shutil.copyfile(path, folder / path.name)
        return
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(model_path).save_pretrained(folder)
