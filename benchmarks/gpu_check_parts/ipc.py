"""CUDA IPC between two processes on the card: a buffer as vLLM's packed transfer opens one, with an embedding in it."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu_check_parts.claims import Report
from benchmarks.gpu_check_parts.setting import ROOT, Setting

SHAPES = ((151936, 1536), (8960, 1536))  # an embedding and a layer of the 1.5b shape


def carry(setting: Setting, report: Report) -> None:
    """Sums of both tensors here, and as another process reads them from the buffer."""
    if not setting.cuda:
        return report.skip("carried", "on a CPU")
    from torch.multiprocessing.reductions import reduce_tensor

    tensors = [torch.randn(shape, device=setting.device, dtype=torch.bfloat16) for shape in SHAPES]
    buffer = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in tensors])
    torch.cuda.synchronize()
    handle = setting.scratch / "handle.pkl"
    handle.write_bytes(pickle.dumps(reduce_tensor(buffer)))
    began = time.perf_counter()
    line = [sys.executable, "-m", "benchmarks.gpu_check_parts.ipc", str(handle)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return report.claim("carried", False, f"the reading process failed: {lines[-1]}")
    here = [float(tensor.double().sum()) for tensor in tensors]
    there = [float(text) for text in done.stdout.split()]
    note = f"{buffer.numel() / 1e6:.0f} MB, {time.perf_counter() - began:.1f} s with the start of the process"
    near = [abs(a - b) <= 1e-9 * tensor.numel() for a, b, tensor in zip(here, there, tensors, strict=True)]
    return report.claim("carried", all(near), note)


def read(handle: Path) -> list[float]:
    """Sums of the tensors in the buffer that ``handle`` names."""
    rebuild, arguments = pickle.loads(handle.read_bytes())
    buffer, place, sums = rebuild(*arguments), 0, []
    for rows, width in SHAPES:
        size = 2 * rows * width
        sums.append(float(buffer[place : place + size].view(torch.bfloat16).double().sum()))
        place += size
    return sums


if __name__ == "__main__":
    print(*(repr(total) for total in read(Path(sys.argv[1]))))
