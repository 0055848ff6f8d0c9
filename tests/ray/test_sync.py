"""Weight sync into real vLLM workers: correct for tied and untied models, verified, with few calls and deadlines."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
import torch

from r0.actors import roles
from r0.actors.calls import RoleDied, RoleTimeout, call_each
from r0.actors.rollout.hf_engine import HfEngine
from r0.actors.rollout.settings import EngineSettings
from r0.actors.sync.digest import Noted
from r0.actors.sync.sync import make_sender
from r0.actors.sync.transfer import TransferError
from r0.actors.sync.weights import LearnerWeights
from r0.config import StageAConfig
from r0.errors import RunFailed
from r0.records import SampleRequest
from tests.architectures import build
from tests.helpers import rewrite_model, tiny_model
from tests.logprob_gap import gap, load
from tests.weight_source import ModelWeights

pytestmark = pytest.mark.ray

KINDS = [
    pytest.param(arch, tied, marks=() if (arch, tied) in (("qwen2", True), ("llama", False)) else pytest.mark.slow)
    for arch in ("qwen2", "qwen3", "llama")
    for tied in (True, False)
]
BUCKET = 100_000  # bytes: several buckets, fused layers cut in two, the embedding larger than a bucket


def everywhere(workers, method: str, *arguments):
    return call_each(workers, method, [arguments] * len(workers), 300.0)


def requests() -> list[SampleRequest]:
    return [SampleRequest(tuple(range(5 + i, 70 + i % 3)), 2**61 + i) for i in range(8)]


@pytest.mark.parametrize(("arch", "tied"), KINDS)
def test_after_every_sync_the_workers_hold_the_learners_weights(vllm_workers, tmp_path, arch, tied):
    folder = tiny_model(tmp_path / "old", arch, tied)
    learner = load(tiny_model(tmp_path / "new", arch, tied, seed=1))
    everywhere(vllm_workers, "open", EngineSettings(folder, 128))
    before = everywhere(vllm_workers, "sample", requests(), 1.0, 24, False)[0]
    assert gap(load(folder), requests(), before) < 1e-3
    assert gap(learner, requests(), before) > 0.5
    source = Noted(ModelWeights(learner))
    sender = make_sender("gloo", source, vllm_workers, 0, 1, 60.0, BUCKET)
    for version in (1, 2):
        source.digest.take()
        sender.send(version)
        assert everywhere(vllm_workers, "received") == [source.digest.value()] * 2
        for sampled in everywhere(vllm_workers, "sample", requests(), 1.0, 24, False):
            assert {one.version for one in sampled} == {version}
            assert gap(learner, requests(), sampled) < 1e-3
        with torch.no_grad():  # the next update of the learner; the same prompts, so a stale prefix cache would show
            for parameter in learner.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    sender.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_experts_arrive_as_a_checkpoint_has_them(vllm_workers, tmp_path, name):
    folder = build(name, tmp_path / "model")
    learner = load(folder)
    everywhere(vllm_workers, "open", EngineSettings(folder, 128))
    sender = make_sender("gloo", LearnerWeights(learner, None, BUCKET, rank=0), vllm_workers, 0, 1, 60.0, BUCKET)
    for version in (1, 2):
        sender.send(version)
        for sampled in everywhere(vllm_workers, "sample", requests(), 1.0, 24, False):
            assert gap(learner, requests(), sampled) < 1e-3
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    sender.close()


@pytest.mark.slow
def test_calls_do_not_depend_on_the_number_of_parameters(vllm_workers, tmp_path):
    counts = []
    for layers in (1, 6):
        folder = tiny_model(tmp_path / str(layers), layers=layers)
        everywhere(vllm_workers, "open", EngineSettings(folder, 128))
        sender = make_sender("gloo", ModelWeights(load(folder)), vllm_workers, 0, 1, 60.0, BUCKET)
        sender.send(1)
        sender.send(2)
        counts.append(everywhere(vllm_workers, "counted"))
        sender.close()
    assert counts[0] == counts[1] == [["init", *["start", "update", "finish"] * 2]] * 2


def test_a_float32_learner_feeds_a_bfloat16_engine(vllm_workers, tmp_path):
    folder = tiny_model(tmp_path / "old", scale=0.05)
    learner = load(tiny_model(tmp_path / "new", seed=1, scale=0.05))
    everywhere(vllm_workers[:1], "open", EngineSettings(folder, 128, dtype="bf16"))
    sender = make_sender("gloo", ModelWeights(learner), vllm_workers[:1], 0, 1, 60.0, BUCKET)
    sender.send(1)
    (sampled,) = everywhere(vllm_workers[:1], "sample", requests(), 1.0, 24, False)
    assert gap(learner, requests(), sampled) < 0.1
    sender.close()


@pytest.mark.parametrize("engine", ["vllm", "hf"])
def test_a_bfloat16_engines_logits_are_not_rounded_to_bfloat16(vllm_workers, tmp_path, engine):
    folder = rewrite_model(
        tiny_model(tmp_path, tied=False), lambda tensors: {**tensors, "lm_head.weight": 4 * tensors["lm_head.weight"]}
    )
    prompt = tuple(range(5, 60))
    with torch.inference_mode():
        high, ids = load(folder)(torch.tensor([prompt])).logits[0, -1, :259].topk(8)
    everywhere(vllm_workers[:1], "open", EngineSettings(folder, 128, engine=engine, dtype="bf16"))
    asked = [SampleRequest(prompt, 2**61, tuple(ids.tolist()))]
    ((sampled,),) = everywhere(vllm_workers[:1], "sample", asked, 1.0, 1, True)
    assert float(high.min()) > 17  # between 16 and 32 bfloat16 has steps of 1/8
    steps = [8 * (logprob - sampled.allowed_logprobs[0]) for logprob in sampled.allowed_logprobs]
    assert max(abs(step - round(step)) for step in steps) > 0.05
    assert sampled.allowed_logprobs == pytest.approx(high.log_softmax(-1).tolist(), abs=1.0)


def test_a_head_that_is_not_sent_is_an_error_and_not_silence(vllm_workers, tmp_path):
    class Headless(ModelWeights):
        def __iter__(self):
            return (pair for pair in super().__iter__() if pair[0] != "lm_head.weight")

    folder = tiny_model(tmp_path / "old", tied=False)
    everywhere(vllm_workers, "open", EngineSettings(folder, 128))
    sender = make_sender("gloo", Headless(load(folder)), vllm_workers, 0, 1, 60.0, BUCKET)
    with pytest.raises(Exception, match=r"1 parameters were not sent, the first is lm_head\.weight"):
        sender.send(1)
    assert everywhere(vllm_workers, "version") == [-1, -1]
    with pytest.raises(Exception, match="incomplete after a failed sync"):
        everywhere(vllm_workers, "sample", requests(), 1.0, 4, False)


@pytest.mark.slow
def test_memory_is_flat_over_fifty_syncs(vllm_workers, tmp_path):
    folder = tiny_model(tmp_path / "m")
    everywhere(vllm_workers, "open", EngineSettings(folder, 128))
    sender = make_sender("gloo", ModelWeights(load(folder)), vllm_workers, 0, 1, 60.0, BUCKET)
    worker, own = [], []
    for version in range(1, 71):
        sender.send(version)
        if version in (20, 70):
            worker.append(everywhere(vllm_workers, "memory"))
            own.append(psutil.Process().memory_info().rss)
    sender.close()
    assert own[1] - own[0] < 8 * 2**20
    assert all(after - before < 8 * 2**20 for before, after in zip(*worker, strict=True))


def test_a_stopped_worker_raises_at_the_deadline_and_a_dead_one_at_once(vllm_workers, tmp_path):
    folder = tiny_model(tmp_path / "m")
    everywhere(vllm_workers, "open", EngineSettings(folder, 128))
    sender = make_sender("gloo", ModelWeights(load(folder)), vllm_workers, 0, 1, 5.0, BUCKET)
    sender.send(1)
    pid = everywhere(vllm_workers, "pid")[1]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises((RoleTimeout, TransferError), match="5 s"):
            sender.send(2)
    finally:
        os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGKILL)
    sender = None
    with pytest.raises((RoleDied, RoleTimeout, TransferError)):
        make_sender("gloo", ModelWeights(load(folder)), vllm_workers, 0, 1, 5.0, BUCKET)


@pytest.mark.parametrize(
    ("method", "stand_in"),
    [
        ("update_weights", lambda engine, info: None),  # nothing was loaded, and the version is the new one
        ("_load", lambda engine, weights: next(iter(engine._digest.through(weights)))),  # only the first tensor was
    ],
)
def test_a_sync_that_leaves_the_old_weights_is_an_error_however_small_the_gap(tmp_path, monkeypatch, method, stand_in):
    settings = {"algo": "grpo", "learner": {"dtype": "fp32"}, "rollout": {"engine": "hf"}, "ray": {"inline": True}}
    team = roles.inline(StageAConfig(**settings, max_prompt_tokens=64, max_new_tokens=16), str(tiny_model(tmp_path / "model")), 1)
    team.connect()
    team.sync(version=0)
    monkeypatch.setattr(HfEngine, method, stand_in)
    with pytest.raises(RunFailed, match="after the sync of version 1 the rollout workers have received"):
        team.sync(version=1)
    assert team.rollout.versions() == [1]  # the version alone would not have said it
    monkeypatch.undo()
    team.sync(version=2)
    team.close()
