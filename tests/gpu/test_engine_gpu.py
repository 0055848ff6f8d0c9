"""vLLM on a GPU that it shares with the learner: weights arrive through CUDA IPC, and sleep gives the memory back."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from r0.actors.rollout.settings import EngineSettings
from r0.records import SampleRequest
from tests.switching import Switching
from tests.weight_source import ModelWeights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None, reason="needs a GPU and vLLM"),
]

VOCAB = 152_064  # with 512 numbers a token the embedding is 156 MB: more than the bucket of 64 MB
SHARED = {"device": "cuda", "shared_card": True, "sleep": True, "kv_cache_gib": 2.0, "max_num_seqs": 8}
REQUESTS = [SampleRequest(prompt_ids=tuple(range(5, 5 + length)), seed=length) for length in (9, 17, 33)]


def save_model(folder: Path, seed: int) -> str:
    """A Qwen2 of two layers with a large vocabulary, in bf16."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCAB, hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def weights_of(folder: str) -> ModelWeights:
    from transformers import AutoModelForCausalLM

    return ModelWeights(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).cuda())


class Learner:
    """The process that sends weights."""

    def connect(self, folder: str, workers: list) -> None:
        from r0.actors.sync.sync import make_sender

        self.sender = make_sender("ipc", weights_of(folder), workers, 0, 1, 120.0, bucket_bytes=64_000_000)

    def send(self, version: int) -> None:
        self.sender.send(version)


@pytest.fixture
def shared_card():
    """Ray on this machine, a learner and an engine with a part of one GPU each."""
    import ray

    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, namespace="r0-gpu-tests")
    yield ray, ray.remote(Learner).options(num_gpus=0.4).remote(), ray.remote(Switching).options(num_gpus=0.6).remote()
    ray.shutdown()


def test_an_embedding_larger_than_a_bucket_arrives_through_ipc_and_the_engine_sleeps_and_wakes(shared_card, tmp_path):
    ray, learner, engine = shared_card
    start, trained = save_model(tmp_path / "start", seed=1), save_model(tmp_path / "trained", seed=2)
    settings = EngineSettings(start, 128, transfer="ipc", **SHARED)
    ray.get(engine.open.remote(settings), timeout=600)
    ray.get(learner.connect.remote(trained, [engine]), timeout=120)
    before = ray.get(engine.sample.remote(REQUESTS, 1.0, 16, True), timeout=120)
    versions, samples = [], []
    for version in (1, 2):
        ray.get(engine.sleep.remote(), timeout=120)
        versions.append(ray.get(engine.version.remote(), timeout=30))
        ray.get(learner.send.remote(version), timeout=120)
        versions.append(ray.get(engine.version.remote(), timeout=30))
        samples.append(ray.get(engine.sample.remote(REQUESTS, 1.0, 16, True), timeout=120))
    assert versions == [-1, 1, -1, 2]
    assert [one.token_ids for one in samples[0]] == [one.token_ids for one in samples[1]]
    assert [one.token_ids for one in samples[0]] != [one.token_ids for one in before]
    model = weights_of(trained).model
    for request, sampled in zip(REQUESTS, samples[0], strict=True):  # the engine samples with what was sent
        ids = torch.tensor([request.prompt_ids + sampled.token_ids], device="cuda")
        with torch.no_grad():
            logprobs = model(ids).logits[0, len(request.prompt_ids) - 1 : -1].float().log_softmax(-1)
        found = logprobs.gather(1, ids[0, len(request.prompt_ids) :, None])[:, 0].cpu()
        torch.testing.assert_close(found, torch.tensor(sampled.logprobs), atol=0.3, rtol=0)


def test_sleep_gives_the_cards_memory_back_and_a_sync_in_this_process_takes_it_again(tmp_path):
    from r0.actors.rollout.worker import RolloutWorker
    from r0.actors.sync.sync import LocalSender

    start, trained = save_model(tmp_path / "start", seed=1), save_model(tmp_path / "trained", seed=2)
    settings = EngineSettings(start, 128, transfer="local", **SHARED)
    worker = RolloutWorker(settings)
    sender = LocalSender(weights_of(trained), worker)
    sender.send(1)
    want = worker.sample(REQUESTS, 1.0, 16, True)
    awake = torch.cuda.mem_get_info()[0]
    worker.sleep()
    asleep = torch.cuda.mem_get_info()[0]
    assert asleep - awake > 2 * 2**30  # the cache, and the weights
    with pytest.raises(RuntimeError, match="it sleeps"):
        worker.sample(REQUESTS, 1.0, 16, True)
    sender.send(2)
    assert worker.version() == 2
    assert [one.token_ids for one in worker.sample(REQUESTS, 1.0, 16, True)] == [one.token_ids for one in want]
    worker.close()
