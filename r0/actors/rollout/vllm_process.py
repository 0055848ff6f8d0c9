"""Prepares a process for vLLM: environment, logging, and a module that vLLM cannot inspect. Does not import vLLM."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any

from r0.errors import UserError

# Warnings that vLLM prints at every start and that need no action.
IGNORED_WARNINGS = (
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
    "The global random seed is set to",  # vllm_engine restores it
    "Reset SSM cache type",
    "RotaryEmbedding: Failed to load weights",  # it has none
)


def configure_logging() -> None:
    """Print vLLM's warnings and errors on stderr, except the ignored ones."""
    logger = logging.getLogger("vllm")
    if logger.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("vllm %(levelname)s: %(message)s"))
    handler.addFilter(lambda record: not any(text in record.getMessage() for text in IGNORED_WARNINGS))
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False


def patch_llvmlite() -> None:
    """Let vLLM inspect all imported modules. llvmlite's library wrapper returns a function for every attribute, including
    ``__dict__``, and vLLM fails on it if numba has been imported before (bm25s imports it)."""
    wrapper: Any = type(getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None))
    found = wrapper.__dict__.get("__getattr__")
    if found is None or getattr(found, "patched", False):
        return

    def attribute(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return found(self, name)

    attribute.patched = True  # type: ignore[attr-defined]
    wrapper.__getattr__ = attribute


def set_environment() -> None:
    """Set vLLM's environment variables, before it is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # run the engine in this process
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # several engines share few cores
    # For tensor-parallel engines; vLLM's default, fork, fails if torch has initialized CUDA before.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")  # see configure_logging
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("GLOO_LOG_LEVEL", "ERROR")


def without_expandable_segments() -> None:
    """Remove torch's expandable segments from the environment: vLLM's sleep mode uses its own memory pool, which does not support
    them.

    Torch reads its allocator's settings when it first allocates GPU memory. If it already has (inline), vLLM disables the
    segments while it allocates.
    """
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        if settings := os.environ.pop(name, None):
            kept = [part for part in settings.split(",") if part.partition(":")[0].strip() != "expandable_segments"]
            if kept:
                os.environ[name] = ",".join(kept)


def unsupported_architecture(error: Exception) -> UserError | None:
    """What to say where vLLM refuses a model's architecture with ``error``; None: it says something else."""
    found = re.search(r"Model architectures? (\[.*?\]|\S+) (failed to be inspected|(is|are|was) (not )?supported)", str(error))
    if found is None:
        return None
    names = found[1].strip("[]").replace("'", "")
    return UserError(
        f"rollout.engine: vLLM cannot run {names} on this machine; use rollout.engine=hf, which samples with transformers"
    )
