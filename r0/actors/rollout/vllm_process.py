"""The process that vLLM runs in: its environment, its log, and modules that vLLM cannot start beside. Does not import vLLM."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

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


def configure_logging() -> None:
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


def patch_llvmlite() -> None:
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


def set_environment() -> None:
    """What vLLM reads from the environment, before it is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process: no second copy of anything
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # several engines share few cores
    # The processes of a tensor-parallel engine; vLLM's own choice, fork, fails where torch has looked at the GPUs before.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")  # see configure_logging
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("GLOO_LOG_LEVEL", "ERROR")


def without_expandable_segments() -> None:
    """Take torch's expandable segments out of the environment: vLLM's sleep mode has memory of its own, which cannot lie in them.

    Torch reads its allocator's settings when it first takes memory of a GPU. Where it has done so already (inline), vLLM switches
    the segments off around what it allocates.
    """
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        if settings := os.environ.pop(name, None):
            kept = [part for part in settings.split(",") if part.partition(":")[0].strip() != "expandable_segments"]
            if kept:
                os.environ[name] = ",".join(kept)
