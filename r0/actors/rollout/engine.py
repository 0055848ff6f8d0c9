"""What both sampling engines have in common: their settings, the calls they answer, and the ids that end a completion.

The settings are plain data, so that they travel to an actor; nothing here imports torch or vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from r0.config import RLConfig, RolloutSection
from r0.errors import UserError
from r0.records import Sampled, SampleRequest

Device: TypeAlias = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is made from. ``transfer`` names the weight transfer backend: local, gloo, nccl or ipc."""

    model: str  # folder
    max_model_len: int  # prompt and completion together, in tokens
    engine: Literal["vllm", "hf"] = "vllm"
    transfer: str = "gloo"
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    device: Device = "auto"  # auto: a GPU where torch sees one
    threads: int = 1  # of a CPU engine; bit-for-bit repeatable with 1
    max_num_seqs: int = 128
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.85
    kv_cache_gib: float = 1.0
    enforce_eager: bool = False

    @classmethod
    def of(cls, config: RLConfig, model: str, transfer: str) -> EngineSettings:
        """The settings that a configuration asks for, with the model in folder ``model``."""
        return cls.of_rollout(config.rollout, model, config.max_prompt_tokens + config.max_new_tokens, transfer)

    @classmethod
    def of_rollout(
        cls, rollout: RolloutSection, model: str, max_model_len: int, transfer: str = "local", device: Device = "auto"
    ) -> EngineSettings:
        """The settings that a section asks for, with prompts and completions of ``max_model_len`` tokens together."""
        return cls(
            model=model,
            max_model_len=max_model_len,
            engine=rollout.engine,
            transfer=transfer,
            dtype=rollout.dtype,
            device=device,
            threads=max(1, int(rollout.cpus)),
            max_num_seqs=rollout.max_num_seqs,
            tensor_parallel_size=rollout.tensor_parallel_size,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            kv_cache_gib=rollout.kv_cache_gib,
            enforce_eager=rollout.enforce_eager,
        )


def transfer_backend(config: RLConfig, gpus: bool) -> str:
    """The way of the weights from learner to engine: as configured, or what fits the engine and its devices (``gpus``)."""
    if config.sync.backend != "auto":
        return config.sync.backend
    if config.ray.inline:
        return "local"
    if not gpus or config.rollout.engine == "hf":
        return "gloo"
    shared = config.learner.gpus is not None and config.learner.gpus < 1
    return "ipc" if shared else "nccl"


class Engine(Protocol):
    """The calls of an engine. The four about weights are vLLM's own weight transfer API, and the Hugging Face engine's too."""

    def sample(self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool) -> list[Sampled]:
        """Complete every request, in order."""

    def submit(self, key: int, request: SampleRequest, temperature: float, max_new_tokens: int, greedy: bool) -> None:
        """Take a request in; ``step`` gives its completion back under ``key``, which no other request in work has."""

    def step(self) -> list[tuple[int, Sampled]]:
        """Work on what was submitted for a moment; gives what has become complete. Nothing in work: nothing happens."""

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        """Join the transfer group that ``info`` describes."""

    def start_weight_update(self) -> None:
        """Make ready for new weights."""

    def update_weights(self, info: dict[str, Any]) -> None:
        """Receive all weights."""

    def finish_weight_update(self, version: int) -> None:
        """Put the new weights to use as version ``version``, and forget what the old ones computed."""

    def version(self) -> int:
        """Version of the weights in use; 0 for the model as loaded."""

    def close(self) -> None:
        """Release what the engine holds."""


def make_engine(settings: EngineSettings) -> Engine:
    """The engine that the settings name.

    Raises:
        UserError: it is not installed; the model is too short for prompt and completion.
    """
    if settings.engine == "hf":
        from r0.actors.rollout.hf_engine import HfEngine

        return HfEngine(settings)
    from r0.actors.rollout.vllm_engine import VllmEngine

    return VllmEngine(settings)


def check_requests(requests: Sequence[SampleRequest], max_new_tokens: int, settings: EngineSettings) -> None:
    """Refuse what an engine cannot sample.

    Raises:
        ValueError: a prompt leaves less than ``max_new_tokens`` of the engine's length; an allowed id is given twice.
    """
    longest = max((len(request.prompt_ids) for request in requests), default=0)
    if longest + max_new_tokens > (limit := settings.max_model_len):
        raise ValueError(f"a prompt of {longest} and {max_new_tokens} new tokens exceed max_model_len={limit}")
    for request in requests:
        if len(set(request.allowed_ids)) < len(request.allowed_ids):
            raise ValueError(f"allowed ids are given twice: {request.allowed_ids}")


def check_length(folder: Path, max_model_len: int) -> None:
    """Refuse a model that has fewer positions than a prompt and its completion take.

    Raises:
        UserError: with both lengths.
    """
    most = positions(folder)
    if most is not None and max_model_len > most:
        raise UserError(
            f"max_prompt_tokens + max_new_tokens is {max_model_len}, but the model in {folder} has {most} positions; "
            "lower one of the two"
        )


def positions(folder: Path) -> int | None:
    """Positions that a model has, in tokens; None where its configuration does not say."""
    found = _read_json(folder / "config.json").get("max_position_embeddings")
    return found if isinstance(found, int) else None


def stop_ids(folder: Path) -> frozenset[int]:
    """Ids that end a completion: those that the generation configuration, the model's configuration or the tokenizer call the
    end of sequence. (A chat model's list has several, and its tokenizer names one.)
    """
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        eos = _read_json(folder / name).get("eos_token_id")
        found.update([eos] if isinstance(eos, int) else eos or [])
    token = _read_json(folder / "tokenizer_config.json").get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    added = _read_json(folder / "tokenizer.json").get("added_tokens") or []
    found.update(entry["id"] for entry in added if text is not None and entry.get("content") == text)
    return frozenset(found)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"model: {path} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}
