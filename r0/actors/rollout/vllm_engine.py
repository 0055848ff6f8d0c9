"""Sampling with vLLM. With vllm_transfer and vllm_sync the only files that import it: its interface changes every few releases.

What is set here and why (FIELD §2): the engine lives in this process; each request has its own seed, which on a CPU needs prompts
prefilled in one piece; log-probabilities are those of the sampled distribution; the prefix cache is reset after every update.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r0.actors.rollout.engine import EngineSettings, check_length, check_requests, stop_ids
from r0.actors.sync.transfer import TransferError
from r0.errors import UserError
from r0.process.allocator import keep_freed_blocks
from r0.records import Finish, Sampled, SampleRequest

# What vLLM warns about on every start and nobody can or should act on here.
NOISE = (
    "doesn't include CPU backend",
    "Triton is not installed",
    "requires Triton",
    "does not officially support disabling chunked prefill",
    "Enforce eager set",
    "Inductor compilation was disabled",
    "is not found in LD_PRELOAD",
    "doesn't allow to use `torch.set_num_threads`",
    "Chat template warmup failed",
    "Using None for EOS token id",
    "Using None for BOS token id",
    "is already registered. Overwriting.",
    "VLLM_DIST_IDENT",  # set by vLLM itself
    "The global random seed is set to",  # and set back below
    "Reset SSM cache type",
    "RotaryEmbedding: Failed to load weights",  # has none
)
CPU_BLOCK = 32  # tokens a key-value block; the smallest the CPU kernel takes, so that short prompts share a prefix too


class VllmEngine:
    """One vLLM engine on a CPU or on ``tensor_parallel_size`` GPUs. See ``r0.actors.rollout.engine.Engine`` for the calls."""

    def __init__(self, settings: EngineSettings):
        check_length(Path(settings.model), settings.max_model_len)
        self._settings = settings
        self._stop_ids = sorted(stop_ids(Path(settings.model)))
        self._version = 0
        self._broken = False
        self._in_work: dict[str, SampleRequest] = {}  # submitted, by vLLM's name of the request
        self._llm = _start(settings)

    def sample(self, requests: Sequence[SampleRequest], temperature: float, max_new_tokens: int, greedy: bool) -> list[Sampled]:
        """Complete every request, in order. ``greedy`` takes the likeliest token; its log-probabilities are at temperature 1.

        Raises:
            ValueError: a prompt leaves less than ``max_new_tokens`` of the engine's length.
            RuntimeError: submitted requests are still in work.
        """
        if self._in_work:
            raise RuntimeError(f"sample: {len(self._in_work)} submitted requests are still in work; step until they are done")
        check_requests(requests, max_new_tokens, self._settings)
        parameters = [self._parameters(request, temperature, max_new_tokens, greedy) for request in requests]
        prompts: Any = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False) if prompts else []
        return [self._sampled(request, output.outputs[0]) for request, output in zip(requests, outputs, strict=True)]

    def submit(self, key: int, request: SampleRequest, temperature: float, max_new_tokens: int, greedy: bool) -> None:
        """Take a request in; ``step`` gives its completion back under ``key``, which no other request in work has.

        Raises:
            ValueError: as ``sample``; or the key is in work.
        """
        if (name := str(key)) in self._in_work:
            raise ValueError(f"submit: {key} is in work already")
        check_requests([request], max_new_tokens, self._settings)
        from vllm.inputs.engine import tokens_input

        parameters = self._parameters(request, temperature, max_new_tokens, greedy)
        self._llm.llm_engine.add_request(name, tokens_input(list(request.prompt_ids)), parameters)
        self._in_work[name] = request

    def step(self) -> list[tuple[int, Sampled]]:
        """One forward pass over what is in work (at most ``max_num_seqs`` requests); gives what has become complete."""
        if not self._in_work:
            return []
        done = [output for output in self._llm.llm_engine.step() if output.finished]
        return [(int(one.request_id), self._sampled(self._in_work.pop(one.request_id), one.outputs[0])) for one in done]

    def _parameters(self, request: SampleRequest, temperature: float, max_new_tokens: int, greedy: bool) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0 if greedy else temperature,
            seed=request.seed,
            max_tokens=max_new_tokens,
            stop_token_ids=self._stop_ids,
            allowed_token_ids=list(request.allowed_ids) or None,
            logprobs=len(request.allowed_ids),  # beside the sampled token's: those of the ids that it was sampled from
            flat_logprobs=True,  # one list of floats instead of a dictionary a token
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _sampled(self, request: SampleRequest, completion: Any) -> Sampled:
        found, allowed = completion.logprobs, request.allowed_ids
        first = dict(zip(found.token_ids[: len(allowed) + 1], found.logprobs, strict=False)) if allowed else {}
        return Sampled(
            token_ids=tuple(completion.token_ids),
            logprobs=tuple(found.logprobs[:: len(allowed) + 1]),
            finish=Finish.STOP if completion.finish_reason == "stop" else Finish.LENGTH,
            version=self._version,
            allowed_logprobs=tuple(first[one] for one in allowed),
        )

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        """Join the transfer group that ``info`` describes."""
        self._llm.init_weight_transfer_engine({"init_info": info})

    def start_weight_update(self) -> None:
        """Make ready for new weights. Until they are complete the engine has no version.

        Raises:
            TransferError: an earlier update broke off; what it left cannot be loaded over.
        """
        if self._broken:
            raise TransferError("weight transfer: an earlier update of this engine broke off; the worker must be started anew")
        if self._version >= 0:  # else an update was announced, but nothing sent
            self._llm.start_weight_update()
        self._version = -1

    def update_weights(self, info: dict[str, Any]) -> None:
        """Receive all weights."""
        self._broken = True
        self._llm.update_weights({"update_info": info})
        self._broken = False

    def finish_weight_update(self, version: int) -> None:
        """Put the new weights to use, and drop the key-values that the old ones computed (vLLM does not by itself)."""
        self._llm.finish_weight_update(weight_version=str(version))
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache after a weight update")
        self._version = int(self._llm.get_weight_version())

    def version(self) -> int:
        """Version of the weights in use; −1 while they are incomplete."""
        return self._version

    def close(self) -> None:
        """Release the model and its caches."""
        if hasattr(self, "_llm"):
            self._llm.llm_engine.engine_core.shutdown()  # now, not at exit: its process groups may be gone by then
            del self._llm
            gc.collect()


def _start(settings: EngineSettings) -> Any:
    """A vLLM engine.

    Raises:
        UserError: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError("rollout.engine: vLLM is not installed; install r0's extra cpu or gpu, or use rollout.engine=hf")
    _environment()
    import torch

    on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    _quiet()
    _settle_llvmlite()
    if on_cpu:
        torch.set_num_threads(settings.threads)
    set_num_threads = torch.set_num_threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from vllm import LLM
        from vllm.config.weight_transfer import WeightTransferConfig
    dtype = {"bf16": "bfloat16", "fp32": "float32", "auto": "float32" if on_cpu else "bfloat16"}[settings.dtype]
    with torch.random.fork_rng(), warnings.catch_warnings():  # vLLM seeds this process's generators
        warnings.simplefilter("ignore", FutureWarning)
        llm = LLM(
            settings.model,
            dtype=dtype,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            enforce_eager=on_cpu or settings.enforce_eager,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",  # no sampling defaults from the model's folder
            skip_tokenizer_init=True,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            weight_transfer_config=WeightTransferConfig(backend=settings.transfer),
            worker_extension_cls="r0.actors.sync.vllm_transfer.WorkerExtension",
            **(_on_cpu(settings) if on_cpu else _on_gpu(settings)),
        )
    torch.set_num_threads = set_num_threads  # vLLM put a stub in its place
    return llm


def _on_cpu(settings: EngineSettings) -> dict[str, Any]:
    from vllm.v1.sample import sampler

    keep_freed_blocks()
    # vLLM counts the rank of every sampled token with a kernel that it first compiles for 15 s. Nothing here reads ranks.
    sampler.batched_count_greater_than = lambda logprobs, values: values.new_zeros(values.shape[0], dtype=int)
    return {
        # A seeded request crashes the CPU build when its prompt is prefilled in chunks.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings.max_model_len, min(8192, settings.max_model_len * settings.max_num_seqs)),
        "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30),
        "block_size": CPU_BLOCK,
    }


def _on_gpu(settings: EngineSettings) -> dict[str, Any]:
    return {
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        # The actor owns all GPUs of its engine, on one node: its own child processes drive them.
        "distributed_executor_backend": "mp" if settings.tensor_parallel_size > 1 else "uni",
    }


def _quiet() -> None:
    """vLLM's warnings and errors on stderr, without the noise."""
    logger = logging.getLogger("vllm")
    if logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("vllm %(levelname)s: %(message)s"))
    handler.addFilter(lambda record: not any(noise in record.getMessage() for noise in NOISE))
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False


def _settle_llvmlite() -> None:
    """Let vLLM look at all modules. llvmlite's wrapper of its library has a function for every name, ``__dict__`` too, and vLLM's
    walk over what is imported stumbles over that where something imported numba before (bm25s does)."""
    wrapper: Any = type(getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None))
    found = wrapper.__dict__.get("__getattr__")
    if found is None or getattr(found, "settled", False):
        return

    def attribute(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return found(self, name)

    attribute.settled = True  # type: ignore[attr-defined]
    wrapper.__getattr__ = attribute


def _environment() -> None:
    """What vLLM reads from the environment, before it is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process: no second copy of anything
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # several engines share few cores
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")  # see _quiet
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("GLOO_LOG_LEVEL", "ERROR")
