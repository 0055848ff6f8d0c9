"""Environment variables of r0's processes: they suppress start-up notices of libraries, but not real warnings."""

from __future__ import annotations

import os

from r0.process.gpus import cards

VARIABLES = {
    "TOKENIZERS_PARALLELISM": "false",  # each role has its own cores
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # the NUMA notice of DeepSpeed's native part
    "GLOO_LOG_LEVEL": "ERROR",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray: leave CUDA_VISIBLE_DEVICES of workers without a GPU as it is
    "RAY_DEDUP_LOGS": "1",
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",  # see device.avoid_cudnn_attention
}


WORKER_VARIABLES = {**VARIABLES, "TQDM_DISABLE": "1"}  # no progress bars of loading and saving weights in every process


def prepare_environment() -> None:
    """Set the variables that are not set yet, in the driver; call it before torch or Ray is imported."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if not cards():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed prints a long notice
