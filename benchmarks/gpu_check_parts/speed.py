"""Seconds of an update: equal and ragged lengths, cuDNN's attention on and off, shared and padded rows."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks import learner as bench
from benchmarks.gpu_check_parts.claims import Report
from benchmarks.gpu_check_parts.setting import Setting
from benchmarks.gpu_check_parts.updates import make
from r0.actors.learner.worker import Learner

PROMPT, COMPLETION, GENERATIONS, GROUPS = 900, 256, 8, 16  # at most; tokens and numbers of an update on a card
SMALL = 48, 16, 4, 3  # the same on a CPU
RAGGED = 0.7  # share of the rate at equal lengths that ragged lengths must reach
ON_CPU = "timed on a card only"


def updates(setting: Setting, report: Report) -> None:
    """Rates are operations that shared-prefix rows need, over seconds. Ragged batches are new ones each time, as in a run."""
    learner = make(setting.random_model(setting.shape), setting.device, {"row_tokens": 8192}, gradient_checkpointing=True)
    config = learner.networks.policy.module.model.config
    peak = bench.peak_of(torch.cuda.get_device_name(0)) if setting.cuda else 0.0

    def measured(ragged: bool, cudnn: bool, repeats: int = 2) -> tuple[float, float]:
        """Median seconds, operations a second."""
        if setting.cuda:
            torch.backends.cuda.enable_cudnn_sdp(cudnn)
        batches = [draw(setting, config.vocab_size, ragged, seed=10 * i + cudnn) for i in range(1, 1 + repeats)]
        taken = [bench.timed(learner, batch) for batch in batches]
        rates = [bench.work(config, batch) / seconds for batch, seconds in zip(batches, taken, strict=True)]
        return statistics.median(taken), statistics.median(rates)

    bench.use_rows(learner, True)
    bench.timed(learner, draw(setting, config.vocab_size, True, seed=1, groups=2))  # Adam's state, first calls
    equal, ragged = measured(False, False), measured(True, False)
    notes = [_said("equal", *equal, peak), _said("ragged", *ragged, peak)]
    if setting.cuda:
        notes.append(_said("equal with cuDNN", *measured(False, True), peak))
        notes.append(_said("ragged with cuDNN", *measured(True, True, 1), peak))
    _verdict(report, setting, "ragged", ragged[1] >= RAGGED * equal[1], "; ".join(notes))
    if setting.cuda:
        profile(setting, learner, draw(setting, config.vocab_size, True, seed=2, groups=6))
    bench.use_rows(learner, False)
    padded = measured(True, False, 1)
    note = f"ragged lengths: shared {ragged[0]:.2f} s, padded {padded[0]:.2f} s ({ragged[1] / padded[1]:.1f} times as fast)"
    _verdict(report, setting, "shared", ragged[1] > padded[1], note)
    learner.close()


def draw(setting: Setting, vocab: int, ragged: bool, seed: int, groups: int | None = None) -> list[Any]:
    """A batch of the size that suits the device."""
    prompt, completion, generations, usual = (PROMPT, COMPLETION, GENERATIONS, GROUPS) if setting.cuda else SMALL
    return bench.make_groups(groups or usual, prompt, completion, generations, vocab, ragged, seed)


def profile(setting: Setting, learner: Learner, batch: list[Any]) -> None:
    """Write the 40 operations that take the card longest to ``profile.txt``."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        taken = bench.timed(learner, batch)
    averages = seen.key_averages()
    busy = sum(each.self_device_time_total for each in averages) / 1e6
    longest = sorted(averages, key=lambda each: -each.self_device_time_total)[:40]
    lines = [f"{each.self_device_time_total / 1e3:10.2f} ms {each.count:7d} x {each.key[:110]}" for each in longest]
    text = [f"an update of {len(batch)} groups: {taken:.3f} s with the profiler, the card busy for {busy:.3f} s", *lines]
    (setting.out / "profile.txt").write_text("\n".join(text) + "\n")


def _said(what: str, seconds: float, rate: float, peak: float) -> str:
    share = f", {rate / peak:.0%} of the peak" if peak else ""
    return f"{what} {seconds:.2f} s, {rate / 1e12:.3g} Tflop/s{share}"


def _verdict(report: Report, setting: Setting, key: str, held: bool, note: str) -> None:
    if setting.cuda:
        report.claim(key, held, note)
    else:
        report.skip(key, f"{ON_CPU}; {note}")
