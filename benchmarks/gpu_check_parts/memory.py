"""Memory of a learner rank at its fullest, by row budget and gradient checkpointing, beside the estimate of the dry run."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.gpu_check_parts.claims import Report
from benchmarks.gpu_check_parts.setting import Setting
from benchmarks.gpu_check_parts.speed import COMPLETION, PROMPT, draw
from benchmarks.gpu_check_parts.updates import make
from r0.actors.learner.worker import Learner
from r0.actors.memory.learner import learner_rank
from r0.actors.memory.shape import ModelShape

GIB = 2**30
NEAR = 0.2  # of the measured peak


def checkpointed(setting: Setting, report: Report) -> None:
    """Rows of 8,192 tokens, with gradient checkpointing."""
    measure(setting, report, True, 8192)


def long_rows(setting: Setting, report: Report) -> None:
    """Rows of 16,384 tokens, with gradient checkpointing."""
    measure(setting, report, True, 16384)


def kept(setting: Setting, report: Report) -> None:
    """Rows of 8,192 tokens without gradient checkpointing."""
    measure(setting, report, False, 8192)


def measure(setting: Setting, report: Report, checkpointing: bool, rows: int) -> None:
    """The second update of a learner: the first one makes Adam's state."""
    if not setting.cuda:
        return report.skip("estimate", "on a CPU")
    folder = setting.random_model(setting.shape)
    sizes = {"max_prompt_tokens": PROMPT, "max_new_tokens": COMPLETION}
    learner = make(folder, setting.device, {"row_tokens": rows}, gradient_checkpointing=checkpointing, **sizes)
    loaded = torch.cuda.memory_allocated() / GIB
    vocab = learner.networks.policy.module.model.config.vocab_size
    learner.update(draw(setting, vocab, True, seed=1), 0)
    torch.cuda.reset_peak_memory_stats()
    learner.update(draw(setting, vocab, True, seed=2), 0)
    between, peak = torch.cuda.memory_allocated() / GIB, torch.cuda.max_memory_allocated() / GIB
    reserved = torch.cuda.max_memory_reserved() / GIB
    figures = {"loaded": loaded, "between": between, "peak": peak, "reserved": reserved}
    note = f"loaded {loaded:.1f}, between updates {between:.1f}, peak {peak:.1f}, reserved {reserved:.1f} GiB"
    expected = estimate(learner, Path(folder), checkpointing)
    note = f"{note}; estimate of the peak {expected:.1f}"
    return report.claim("estimate", abs(expected - peak) <= NEAR * peak, note, estimate=expected, **figures)


def estimate(learner: Learner, folder: Path, checkpointing: bool) -> float:
    """GiB of the rank at its fullest, without CUDA's own context."""
    shape = ModelShape.of(json.loads((folder / "config.json").read_text()))
    rank = learner_rank(learner.config, shape, checkpointing)
    return (rank.peak - rank.context) / GIB
