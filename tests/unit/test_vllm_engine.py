"""What a vLLM engine needs of its process, and the order of its calls to vLLM around a weight update."""

import os
import sys

import pytest

from r0.actors.rollout import vllm_engine
from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.vllm_process import (
    patch_llvmlite,
    set_environment,
    unsupported_architecture,
    without_expandable_segments,
)
from r0.actors.rollout.worker import RolloutWorker
from r0.actors.sync.transfer import TransferError
from r0.storage.models import model_folder


class Vllm:
    """Stands in for vLLM's LLM on a GPU: records the calls, and fails in the call named by ``fails``."""

    def __init__(self, fails: str = ""):
        self.calls: list[str] = []
        self.asleep: set[str] = set()
        self._fails, self._version = fails, "default"

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self._fails:
            raise RuntimeError(f"{name} failed")

    def sleep(self, level):
        self._call(f"sleep {level}")
        self.asleep = {"weights", "kv_cache"}

    def wake_up(self, tags):
        self._call(f"wake {' '.join(tags)}")
        self.asleep -= set(tags)
        return not self.asleep

    def start_weight_update(self):
        self._call("start")

    def update_weights(self, request):
        self._call("update")

    def finish_weight_update(self, weight_version):
        self._call("finish")
        self._version = weight_version

    def collective_rpc(self, method):
        assert method == "take_digest"
        return ["2-a", "2-a"]

    def reset_prefix_cache(self):
        self._call("reset")
        return True

    def get_weight_version(self):
        return self._version

    def generate(self, prompts, parameters, use_tqdm):
        self._call("generate")
        return []


@pytest.fixture
def worker(monkeypatch):
    def make(sleep: bool = True, fails: str = "") -> tuple[RolloutWorker, Vllm]:
        vllm = Vllm(fails)
        monkeypatch.setattr(vllm_engine, "start_vllm", lambda settings: (vllm, 4))
        settings = EngineSettings(str(model_folder("r0-tiny")), 128, transfer="ipc", shared_card=sleep, sleep=sleep)
        return RolloutWorker(settings), vllm

    return make


def step(worker: RolloutWorker) -> None:
    worker.sleep()
    sync(worker, 1)


def sync(worker: RolloutWorker, version: int, buckets: int = 2) -> None:
    worker.start_weight_update()
    for _ in range(buckets):
        worker.update_weights({})
    worker.finish_weight_update(version)


def test_a_sleeping_engine_takes_memory_for_weights_before_the_sync_and_for_the_cache_after_it(worker):
    made, vllm = worker()
    sync(made, 0)
    assert vllm.calls == ["start", "update", "update", "finish", "reset"]  # awake: nothing to wake
    vllm.calls.clear()
    made.sleep()
    made.sleep()  # once is enough
    sync(made, 1)
    assert vllm.calls == ["sleep 2", "wake weights", "start", "update", "update", "finish", "reset", "wake kv_cache"]
    assert (made.version(), made.received()) == (1, "2-a")
    assert made.sample([], 1.0, 4) == []


def test_a_sleeping_engine_samples_nothing_before_the_next_sync(worker):
    made, _ = worker()
    made.sleep()
    assert made.version() == -1
    with pytest.raises(RuntimeError, match=r"rollout worker 0: it sleeps, .* it can sample after the next sync"):
        made.sample([], 1.0, 4)


def test_an_engine_with_a_card_of_its_own_does_not_sleep(worker):
    made, vllm = worker(sleep=False)
    made.sleep()
    assert (vllm.calls, made.version()) == ([], 0)


@pytest.mark.parametrize("fails", ["sleep 2", "wake weights", "start", "update", "finish", "reset", "wake kv_cache"])
def test_a_call_that_fails_leaves_the_engine_unusable_and_it_says_so(worker, fails):
    made, vllm = worker(fails=fails)
    with pytest.raises(RuntimeError, match=f"{fails} failed"):
        step(made)
    assert vllm.calls[-1] == fails
    with pytest.raises(RuntimeError, match="it sleeps, or its weights are incomplete"):
        made.sample([], 1.0, 4)
    with pytest.raises(TransferError, match="the worker must be restarted"):
        sync(made, 2)
    assert vllm.calls[-1] == fails  # vLLM was not called again
    assert made.version() == -1


def test_an_update_that_was_announced_and_sent_nothing_can_begin_again(worker):
    made, vllm = worker()
    made.sleep()
    made.start_weight_update()
    sync(made, 3, buckets=1)
    assert vllm.calls == ["sleep 2", "wake weights", "start", "update", "finish", "reset", "wake kv_cache"]
    assert made.version() == 3


def test_a_cache_that_does_not_wake_is_an_error(worker):
    made, vllm = worker()
    made.sleep()
    vllm.wake_up = lambda tags: False
    with pytest.raises(RuntimeError, match="did not wake up"):
        sync(made, 1)
    assert made.version() == -1


def test_processes_of_a_tensor_parallel_engine_are_spawned_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    set_environment()
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    set_environment()
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "fork"


def test_sleep_mode_takes_expandable_segments_out_of_the_environment_and_nothing_else(monkeypatch):
    conf = "max_split_size_mb:512, expandable_segments:True"
    monkeypatch.setattr(os, "environ", {"PYTORCH_CUDA_ALLOC_CONF": conf, "PYTORCH_ALLOC_CONF": "expandable_segments:True"})
    without_expandable_segments()
    assert os.environ == {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}


def test_what_numba_brings_along_has_no_attributes_that_are_not_its_own():
    pytest.importorskip("llvmlite.binding")
    patch_llvmlite()
    patch_llvmlite()  # each engine does it
    library = sys.modules["llvmlite.binding.ffi"].lib
    assert not hasattr(library, "__dict__")
    assert callable(library.LLVMPY_GetVersionInfo)  # its functions are still there


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("Model architectures ['A', 'B'] failed to be inspected. Please check the logs for more details.", "A, B"),
        (
            "1 validation error for ModelConfig\n  Value error, Model architectures ['A'] are not supported for now. Supported",
            "A",
        ),
        ("Model architecture A was supported in vLLM until v0.9.2, and is not supported anymore.", "A"),
        ("Model architecture A is not supported in-tree anymore. Please install the plugin at", "A"),
    ],
)
def test_an_architecture_that_vllm_refuses_is_one_sentence_with_the_remedy(said, names):
    sentence = f"rollout.engine: vLLM cannot run {names} on this machine; use rollout.engine=hf, which samples with transformers"
    assert str(unsupported_architecture(ValueError(said))) == sentence


def test_other_errors_of_vllm_stay_as_they_are():
    assert unsupported_architecture(ValueError("max_model_len (9) is greater than the derived max_model_len")) is None
