"""The engine on transformers, with every architecture: its log-probabilities are those of a plain forward pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from r0.actors.rollout.hf_engine import HfEngine
from r0.actors.rollout.settings import EngineSettings
from r0.records import Finish, SampleRequest
from tests.architectures import ARCHITECTURES, OTHERS, build
from tests.logprob_gap import gap, load

WRITERS = [name for name, one in (ARCHITECTURES | OTHERS).items() if one.head == "causal"]
REQUESTS = [  # prompts longer and shorter than a window, some of them shared
    SampleRequest(tuple(range(5 + prompt, 5 + prompt + length)), 10 * prompt + sample)
    for prompt, length in enumerate([3, 70, 41])
    for sample in range(3)
]


@pytest.mark.parametrize("name", WRITERS)
def test_completions_of_one_batch_have_the_probabilities_of_each_alone(tmp_path, name):
    folder = build(name, tmp_path)
    stops = {"eos_token_id": list(range(20, 320, 20))}  # so that completions of a batch stop one after the other
    (Path(folder) / "generation_config.json").write_text(json.dumps(stops))
    engine = HfEngine(EngineSettings(folder, 128, engine="hf", transfer="local"))
    found = engine.sample(REQUESTS, 1.0, 24, False)
    assert len({len(one.token_ids) for one in found}) > 2
    assert {one.finish for one in found} <= {Finish.STOP, Finish.LENGTH}
    assert gap(load(folder), REQUESTS, found) < 1e-3
