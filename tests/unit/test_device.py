"""A process takes the GPU it was given and tells DeepSpeed and torch so; GPUs are counted without torch."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from r0.actors.learner import worker, zero
from r0.config import StageAConfig
from r0.process import environment, gpus
from r0.process.device import avoid_cudnn_attention, prepare, process_device, with_index


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine with GPUs, whose only call into the driver is recorded."""
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", asked.append, raising=False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(os, "environ", {**os.environ, "DS_ACCELERATOR": "cpu"})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    yield asked
    torch.backends.cuda.enable_cudnn_sdp(True)


def ray_worker(monkeypatch: pytest.MonkeyPatch, ids: list, actor: str | None = "an actor") -> None:
    context = SimpleNamespace(get_actor_id=lambda: actor)
    fake = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context, get_gpu_ids=lambda: ids)
    monkeypatch.setitem(sys.modules, "ray", fake)


def test_the_device_that_a_rank_sets_has_an_index(cards):
    zero.start_distributed(0, 1, "127.0.0.1:29500", torch.device("cuda"), 60)
    zero.start_distributed(0, 1, "127.0.0.1:29500", torch.device("cuda", 2), 60)
    assert cards == [0, 2]
    assert os.environ["LOCAL_RANK"] == "2"


@pytest.mark.parametrize(("asked", "owned", "want"), [(None, None, "cuda:0"), ("cuda", None, "cuda:0"), (None, 0.0, "cpu")])
def test_the_learner_takes_a_gpu_with_an_index_and_none_where_learner_gpus_is_0(cards, monkeypatch, asked, owned, want):
    taken = []

    def start(rank, world, master, device, timeout_s):
        taken.append(device)
        raise InterruptedError  # what follows loads a model

    monkeypatch.setattr(worker, "start_distributed", start)
    with pytest.raises(InterruptedError):
        worker.Learner(StageAConfig(algo="grpo", learner={"gpus": owned}), "", 1, device=asked)
    assert taken == [torch.device(want)]


@pytest.mark.parametrize(
    ("assigned", "visible", "want"),
    [
        ([3], None, 3),  # RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES: all of the node's GPUs are visible
        (["6"], "4,5,6,7", 2),
        (["GPU-b"], "GPU-a,GPU-b", 1),
        (["3"], "3", 0),  # Ray's default
    ],
)
def test_a_ray_worker_takes_the_gpu_that_ray_gave_it(cards, monkeypatch, assigned, visible, want):
    ray_worker(monkeypatch, assigned)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert process_device() == with_index(torch.device("cuda")) == torch.device("cuda", want)


def test_a_ray_worker_without_a_gpu_computes_on_the_cpu_even_where_torch_sees_gpus(cards, monkeypatch):
    ray_worker(monkeypatch, [])
    assert process_device() == torch.device("cpu")
    ray_worker(monkeypatch, [], actor=None)  # the driver owns no GPU either, but may use them
    assert process_device() == torch.device("cuda", 0)


def test_deepspeeds_accelerator_follows_the_device(cards):
    zero.start_distributed(0, 1, "127.0.0.1:29500", torch.device("cuda"), 60)
    assert os.environ["DS_ACCELERATOR"] == "cuda"
    zero.start_distributed(0, 1, "127.0.0.1:29500", torch.device("cpu"), 60)
    assert os.environ["DS_ACCELERATOR"] == "cpu"


def learner_rank() -> None:
    zero.start_distributed(0, 1, "127.0.0.1:29500", torch.device("cuda"), 60)


def hf_engine() -> None:
    from r0.actors.rollout import hf_engine, settings

    chosen = settings.EngineSettings(".", 10, engine="hf", transfer="local")
    with pytest.raises((OSError, ValueError)):  # an empty folder
        hf_engine.HfEngine(chosen)


def encoder_worker() -> None:
    from r0.actors.rollout.settings import EngineSettings
    from r0.rerank.encoder_worker import device_and_dtype

    assert device_and_dtype(EngineSettings("", 10)) == ("cuda", torch.bfloat16)


def supervised_rank() -> None:
    from pathlib import Path

    from r0.config import SftConfig
    from r0.supervised.training import driver
    from r0.supervised.training.job import Job

    context = SimpleNamespace(get_world_rank=lambda: 0)
    sys.modules["ray.train"] = SimpleNamespace(get_context=lambda: context)  # type: ignore[assignment]
    Path("logs").mkdir()
    job = Job(SftConfig(), "", ".", 1, 1, f"{__name__}:nothing")
    driver._ray_rank({"job": job})


def esci_scorer() -> None:
    from r0.config import EsciEvalConfig
    from r0.supervised.esci.scorer import Scorer

    scorer = object.__new__(Scorer)
    scorer._gpu, scorer._config, scorer._classifies, scorer._folder = True, EsciEvalConfig(model="x", data="x"), True, "."
    with pytest.raises((OSError, ValueError)):
        scorer.load()


def nothing(job, channel) -> None:
    assert os.environ["DS_ACCELERATOR"] == "cuda"


@pytest.mark.parametrize("place", [learner_rank, hf_engine, encoder_worker, supervised_rank, esci_scorer])
def test_no_process_that_takes_a_gpu_uses_cudnns_attention(cards, monkeypatch, tmp_path, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray.train", None)  # put back afterwards
    assert torch.backends.cuda.cudnn_sdp_enabled()
    place()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_processes_that_inherit_the_environment_do_not_prefer_cudnns_attention():
    assert environment.WORKER_VARIABLES["TORCH_CUDNN_SDPA_DEPRIORITIZED"] == "1"


def test_a_cpu_process_leaves_cudnn_alone(cards):
    prepare(torch.device("cpu"))
    assert torch.backends.cuda.cudnn_sdp_enabled()
    avoid_cudnn_attention()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without GPUs, to put some in."""
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "proc")
    monkeypatch.setattr(gpus, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(gpus, "WSL_TOOLS", str(tmp_path / "wsl"))
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    for name in ("proc", "dev", "wsl"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_gpus_are_counted_where_the_driver_lists_them(machine):
    assert gpus.cards() == 0
    (machine / "proc" / "gpus" / "0000:01:00.0").mkdir(parents=True)
    assert gpus.cards() == 1


def test_gpus_are_counted_in_a_sandbox_that_has_only_their_device_files(machine, monkeypatch):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (machine / "dev" / name).touch()
    assert gpus.cards() == 2
    environment.prepare_environment()
    assert "DS_ACCELERATOR" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.cards() == 0


def test_gpus_are_counted_under_wsl_by_nvidias_tool(machine):
    (machine / "dev" / "dxg").touch()
    assert gpus.cards() == 0  # another maker's
    tool = machine / "wsl" / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    assert gpus.cards() == 1
