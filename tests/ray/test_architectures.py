"""Every model that has a preset, as a tiny random one of its architecture, through every command that the preset names; and what
is on record of architectures without one (``catalogue.py``).

A command is one line of ``SETTINGS``; what it is tried on follows from the presets. What is checked is the same for all: the
engine's log-probabilities are the learner's (so weights arrive in vLLM, also after they have changed), and the folder that comes
out is one of the same architecture with other weights, which transformers loads and r0.rerank uses on both engines. What
``finetune`` writes scores pairs alike in transformers, sentence-transformers and r0.rerank.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from r0.config.models import NAMES, preset
from r0.launch import main
from tests.architectures import ARCHITECTURES, build
from tests.catalogue import (
    FINETUNE,
    RL,
    SFT,
    STAGE_C,
    check_folder,
    check_gaps,
    check_rerank,
    check_scorer,
    recorded,
    run_cell,
)

pytestmark = pytest.mark.ray

SETTINGS: dict[str, dict[str, object]] = {
    "sft": {**SFT, "lora.r": 4},
    "stage_a": RL,
    "stage_b": {**RL, "candidates": 4, "learner.lora.r": 4},
    "stage_c": STAGE_C,
    "finetune": {**FINETUNE, "lora.r": 4},
}
REPRESENTATIVES = [("mobilellm-r1-950m", "stage_a"), ("bge-reranker-v2-m3", "finetune")]
CASES = [(name, command) for name in NAMES for command in preset(name).commands if command in SETTINGS]
WRITERS = [name for name in NAMES if ARCHITECTURES[name].head == "causal"]


def slow_but(representatives, cases):
    return [pytest.param(*case, marks=() if case in representatives else pytest.mark.slow, id="-".join(case)) for case in cases]


@pytest.mark.parametrize(("name", "command"), slow_but(REPRESENTATIVES, CASES))
def test_an_architecture_goes_through_a_command(tmp_path, name, command):
    start, run = build(name, tmp_path / "start"), tmp_path / "run"
    settings = {**SETTINGS[command], "model": start, "output": run}
    if command == "finetune":  # encoders have 512 positions
        settings["max_prompt_tokens"] = 900 if ARCHITECTURES[name].head == "causal" else 400
    assert main([command, f"model_preset={name}", *(f"{key}={value}" for key, value in settings.items())]) == 0
    check_gaps(run, command)
    if command == "finetune":
        check_scorer(Path(start), run / "model")
    else:
        check_folder(Path(start), run / "model", pairs=command == "stage_c")


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_vllm_and_transformers_give_the_same_probabilities_of_yes(tmp_path, name):
    check_rerank(build(name, tmp_path / "model"), "vllm")


@pytest.mark.slow
@pytest.mark.parametrize(("row", "column", "outcome"), [pytest.param(*cell, id="-".join(cell[:2])) for cell in recorded()])
def test_a_cell_of_the_catalogue_is_what_is_on_record(tmp_path, row, column, outcome):
    found = run_cell(row, column, tmp_path)
    assert {**found, "gap": None} == {**outcome, "gap": None}  # the gap's size differs from one processor to the next
