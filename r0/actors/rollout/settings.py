"""Code shared by both sampling engines: settings, checks of requests, and the ids that end a completion.

The settings are plain data that can be sent to an actor; nothing here imports torch or vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from r0.actors.rollout.sizes import CPU_NUM_SEQS
from r0.config import RLConfig, RolloutSection
from r0.config.cards import shares_card, transfer_backend
from r0.errors import UserError
from r0.records import SampleRequest
from r0.storage.model_checks import read_json
from r0.storage.positions import positions

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
INLINE_SHARE = 0.5  # of its card for an engine that is awake while the learner in the same process works


@dataclass(frozen=True)
class EngineSettings:
    """Settings of an engine. ``transfer`` is the weight transfer backend: local, gloo, nccl or ipc.

    An engine on a ``shared_card`` starts after the learner, with a key-value cache of a fixed size instead of all free memory.
    """

    model: str  # folder
    max_model_len: int  # prompt and completion together, in tokens
    engine: Literal["vllm", "hf"] = "vllm"
    transfer: str = "gloo"
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    device: Device = "auto"  # auto: a GPU where torch sees one
    threads: int = 1  # of a CPU engine; bit-for-bit repeatable with 1
    max_num_seqs: int | None = None  # None: by the key-value cache on a GPU
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.85
    kv_cache_gib: float | None = None  # None: what gpu_memory_utilization leaves on a GPU
    enforce_eager: bool = False
    shared_card: bool = False  # with the learner
    learner_growth: int = 0  # bytes by which a learner on the same card grows in its first update: moments that stay on the card
    sleep: bool = False  # whether ``sleep()`` releases the card's memory

    @property
    def batch(self) -> int:
        """Concurrent completions, or documents of an encoder, if no key-value cache determines the number."""
        return self.max_num_seqs or CPU_NUM_SEQS

    @classmethod
    def of(cls, config: RLConfig, model: str, gpus: bool) -> EngineSettings:
        """The settings for a configuration.

        Args:
            config: the configuration.
            model: folder of the model.
            gpus: whether the machine or the cluster has GPUs.

        Raises:
            UserError: weights cannot go from the learner to the engines as configured.
        """
        try:
            transfer = transfer_backend(config, gpus)
        except ValueError as error:
            raise UserError(str(error)) from None
        length = config.max_prompt_tokens + config.max_new_tokens
        device: Device = "auto" if gpus else "cpu"
        settings = cls.of_rollout(config.rollout, model, length, transfer, device)
        if not (config.samples and config.learns and shares_card(config, gpus)):
            return settings
        if config.rollout.sleep:
            return replace(settings, shared_card=True, sleep=True)
        share = INLINE_SHARE if config.ray.inline else float(config.rollout.gpus or 0)
        return replace(settings, shared_card=True, gpu_memory_utilization=min(share, settings.gpu_memory_utilization))

    @classmethod
    def of_rollout(
        cls, rollout: RolloutSection, model: str, max_model_len: int, transfer: str = "local", device: Device = "auto"
    ) -> EngineSettings:
        """The settings for a section, with ``max_model_len`` tokens for prompt and completion together."""
        return cls(
            model=model,
            max_model_len=max_model_len,
            engine=rollout.engine,
            transfer=transfer,
            dtype=rollout.dtype,
            device="cpu" if rollout.gpus == 0 else device,
            threads=max(1, int(rollout.cpus)),
            max_num_seqs=None if rollout.max_num_seqs == "auto" else rollout.max_num_seqs,
            tensor_parallel_size=rollout.tensor_parallel_size,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            kv_cache_gib=None if rollout.kv_cache_gib == "auto" else rollout.kv_cache_gib,
            enforce_eager=rollout.enforce_eager,
        )


def check_requests(requests: Sequence[SampleRequest], max_new_tokens: int, settings: EngineSettings) -> None:
    """Check that an engine can sample the requests.

    Raises:
        ValueError: a prompt leaves less than ``max_new_tokens`` tokens of the engine's length; an allowed id is given twice.
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


def model_config(folder: Path) -> dict[str, Any]:
    """The model's configuration; empty where it has none.

    Raises:
        UserError: it is not JSON.
    """
    return read_json(folder / "config.json")


def stop_ids(folder: Path) -> frozenset[int]:
    """Ids that end a completion: those that the generation configuration, the model's configuration or the tokenizer call the
    end of sequence. (A chat model's list has several, and its tokenizer names one.)

    Raises:
        UserError: none of them names any: no completion would ever end.
    """
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        eos = read_json(folder / name).get("eos_token_id")
        found.update([eos] if isinstance(eos, int) else eos or [])
    token = read_json(folder / "tokenizer_config.json").get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    added = read_json(folder / "tokenizer.json").get("added_tokens") or []
    found.update(entry["id"] for entry in added if text is not None and entry.get("content") == text)
    if not found and (default := _default_stop_id(folder)) is not None:
        found.add(default)
    if not found:
        raise UserError(
            f"model: {folder} names no end of sequence, so that no completion would end; set eos_token in "
            "tokenizer_config.json, or eos_token_id in generation_config.json"
        )
    return frozenset(found)


def _default_stop_id(folder: Path) -> int | None:
    """The end of sequence that the class of a tokenizer has by itself, if its vocabulary has that token: else transformers adds
    it, and the model does not know it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception:  # opening the tokenizer for prompts says what is wrong with it
        return None
    known = read_json(folder / "tokenizer.json")
    vocabulary = dict((known.get("model") or {}).get("vocab") or tokenizer.get_vocab())  # Unigram lists pairs
    named = {*vocabulary, *(entry.get("content") for entry in known.get("added_tokens") or [])}
    return tokenizer.eos_token_id if tokenizer.eos_token in named else None
