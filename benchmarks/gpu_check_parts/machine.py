"""What the machine is: card, driver, torch, the order in which torch tries its attention kernels."""

from __future__ import annotations

import platform
import shutil
import subprocess

import torch

from benchmarks import learner as bench
from benchmarks.gpu_check_parts.claims import Report
from benchmarks.gpu_check_parts.setting import Setting

KERNELS = {0: "math", 1: "flash", 2: "efficient", 3: "cuDNN", 4: "override"}  # at::SDPBackend


def facts(setting: Setting, report: Report) -> None:
    """Versions, memory, the attention kernels by preference, and what a large matrix product reaches."""
    note = f"Python {platform.python_version()}, torch {torch.__version__}"
    if not setting.cuda:
        return report.skip("card", f"on a CPU; {note}")
    card = torch.cuda.get_device_properties(0)
    q = torch.zeros(1, 2, 8, 64, device="cuda:0", dtype=torch.bfloat16)
    torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    order = [KERNELS.get(int(number), str(number)) for number in torch._C._get_sdp_priority_order()]
    product = bench.matmul_ceiling(torch.device("cuda:0"), torch.bfloat16) / 1e12
    stated = bench.peak_of(card.name) / 1e12
    note = (
        f"{card.name}, {card.total_memory / 2**30:.0f} GiB, driver {_driver()}, {note}, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}; attention: {', '.join(order)}; matrix product {product:.0f} Tflop/s"
        + (f" of {stated:.0f} stated" if stated else "")
    )
    return report.claim("card", True, note, card=card.name, tflops=product, attention=order)


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    line = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.split("\n")[0].strip() or "unknown"
