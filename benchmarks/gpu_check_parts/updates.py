"""Is the learner right on the card? Starting without a device, three updates against the CPU in float32, the probe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import learner as bench
from benchmarks.gpu_check_parts.claims import Report
from benchmarks.gpu_check_parts.setting import ROOT, Setting, end
from r0.actors.learner.worker import Learner
from r0.config import StageAConfig
from r0.storage.models import model_folder

RATE = 1e-3
LOSS, NORM, WEIGHTS = 1e-4, 1e-3, 0.02
"""Allowed in float32: the difference of losses, the relative difference of gradient norms, and the difference of the weights as a
share of how far they moved (root mean squares). Where a gradient is near zero, Adam moves a weight by its sign, so that rounding
shows in single weights. On a CPU, shared and padded rows differ by 8e-7, 6e-6 and 0.0002; bf16 differs by 6e-3, 6e-2 and 0.26."""


def start(setting: Setting, report: Report) -> None:
    """A learner as a Ray actor makes it: no device named."""
    learner = make(str(model_folder("r0-tiny")), None)
    found = f"{learner.device}, {learner.networks.policy.module.model.dtype}"
    report.claim("device", str(learner.device) == setting.device, found)
    on = torch.backends.cuda.cudnn_sdp_enabled()
    if setting.cuda:
        report.claim("cudnn", not on, "on" if on else "off")
    else:
        report.skip("cudnn", "on a CPU")
    learner.close()


def equal(setting: Setting, report: Report) -> None:
    """r0-tiny: float32 on the card, with shared and with padded rows, against the CPU; bf16's difference beside it."""
    first = reference(setting.scratch / "reference.pt", {})
    for key, shared in (("shared", True), ("padded", False)):
        found = three_updates(setting.device, {"dtype": "fp32", "shared_prefix": shared})
        gaps = differences(first, found)
        report.claim(key, within(gaps), said(gaps), **gaps)
    gaps = differences(first, three_updates(setting.device, {"dtype": "bf16"}))
    report.claim("bf16", gaps["weights"] < 1, said(gaps), **gaps)


def probe(setting: Setting, report: Report) -> None:
    """The learner's own choice of rows in bf16, and how far the log-probabilities of both kinds are apart."""
    models = {"r0-tiny": str(model_folder("r0-tiny"))}
    models |= {f"random {setting.shape}, seed {seed}": setting.random_model(setting.shape, seed) for seed in (0, 1)}
    chosen, notes = [], []
    for name, folder in models.items():
        learner = make(folder, setting.device, learner={"dtype": "bf16", "lora": {"r": 4}})  # adapters: no large optimizer
        chosen.append(learner.networks.shared_prefix)
        mean, most = row_difference(learner)
        notes.append(f"{name}: {'shared' if chosen[-1] else 'padded'}, rows differ by {mean:.3f} (at most {most:.2f}) nats")
        learner.close()
    report.claim("rows", all(chosen), "; ".join(notes))


def make(folder: str, device: str | None, learner: dict[str, Any] | None = None, **keys: Any) -> Learner:
    """A learner outside Ray."""
    config = StageAConfig.model_validate({"algo": "grpo", "learner": learner or {}, **keys})
    return Learner(config, folder, 1000, device=device)


def three_updates(device: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Figures of three updates of r0-tiny on ragged groups, and the weights before and after, on the CPU in float32.

    Args:
        device: of the learner.
        keys: of its section ``learner:``.
    """
    learner = make(str(model_folder("r0-tiny")), device, keys, learning_rate=RATE)
    before = {name: tensor.float().cpu().clone() for name, tensor in learner.weights()}
    batches = [bench.make_groups(4, 60, 30, 4, 400, ragged=True, seed=seed) for seed in range(3)]
    figures = [learner.update(batch, 0) for batch in batches]
    after = {name: tensor.float().cpu().clone() for name, tensor in learner.weights()}
    learner.close()
    return {"loss": [f["loss"] for f in figures], "norm": [f["grad_norm"] for f in figures], "before": before, "after": after}


def reference(file: Path, keys: dict[str, Any]) -> dict[str, Any]:
    """``three_updates`` on the CPU in float32, kept in ``file``; in another process, as DeepSpeed has one accelerator a process.

    Raises:
        RuntimeError: it failed.
    """
    if not file.is_file():
        line = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_check_parts.updates", str(file), json.dumps(keys)]
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise RuntimeError(f"the reference on the CPU failed: {done.stderr.strip()[-500:]}")
    return torch.load(file, weights_only=True)


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, float]:
    """The largest difference of ``loss``, the largest relative one of ``norm``, and that of ``weights`` (see WEIGHTS)."""
    apart = _norm(second["after"][name] - tensor for name, tensor in first["after"].items())
    moved = _norm(first["before"][name] - tensor for name, tensor in first["after"].items())
    pairs = list(zip(first["norm"], second["norm"], strict=True))
    return {
        "loss": max(abs(a - b) for a, b in zip(first["loss"], second["loss"], strict=True)),
        "norm": max(abs(a - b) / abs(a) for a, b in pairs),
        "weights": apart / moved,
    }


def within(gaps: dict[str, float]) -> bool:
    """Whether two learners in float32 agree."""
    return gaps["loss"] <= LOSS and gaps["norm"] <= NORM and gaps["weights"] <= WEIGHTS


def said(gaps: dict[str, float]) -> str:
    """The differences in words."""
    loss, norm, weights = gaps["loss"], gaps["norm"], gaps["weights"]
    return f"loss {loss:.1e}, gradient norm {norm:.1e} (relative), weights {weights:.2%} of their movement"


def row_difference(learner: Learner) -> tuple[float, float]:
    """Mean and largest difference in nats between the log-probabilities of shared and of padded rows, on ragged groups."""
    from r0.actors.learner.policy import run_row
    from r0.actors.learner.rows import padded_rows, shared_rows

    module = learner.networks.policy.module.eval()
    groups = bench.make_groups(2, 96, 24, 4, min(1000, module.model.config.vocab_size), ragged=True)
    found = []
    for shared, rows in ((True, shared_rows), (False, padded_rows)):
        bench.use_rows(learner, shared)
        by_item = {}
        with torch.no_grad():
            for row in rows(groups, 4096, learner.device):
                parts = run_row(module, row)[0].split([len(groups[g].completions[s].token_ids) for g, s in row.items])
                by_item |= dict(zip(row.items, parts, strict=True))
        found.append(torch.cat([by_item[item] for item in sorted(by_item)]))
    gap = (found[0] - found[1]).abs()
    return float(gap.mean()), float(gap.max())


def _norm(tensors: Any) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    torch.set_num_threads(2)
    torch.save(three_updates("cpu", {"dtype": "fp32", **json.loads(sys.argv[2])}), sys.argv[1])
