"""vLLM's own trainer and worker engines with the GPU calls stubbed: buffers hold every tensor, and none is left out."""

from __future__ import annotations

import contextlib
import warnings
from types import SimpleNamespace

import pytest
import torch

from r0.actors.sync.digest import NOTHING, Digest
from r0.actors.sync.transfer import TransferError
from r0.config.models import NAMES
from r0.config.sections import SyncSection
from tests.weight_source import ModelWeights

pytestmark = pytest.mark.ray

QWEN2_15B = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
QWEN3_06B = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "tie_word_embeddings": True,
}  # fmt: skip
# What the models' own config.json say of shapes, with two layers: all are alike.
PUBLISHED = {
    "bert-base-uncased": ("bert", {}),
    "bge-reranker-v2-m3": (
        "xlm-roberta", {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "vocab_size": 250002},
    ),
    "deepseek-r1-distill-qwen-1.5b": ("qwen2", {**QWEN2_15B, "tie_word_embeddings": False}),
    "qwen2.5-1.5b": ("qwen2", {**QWEN2_15B, "tie_word_embeddings": True}),
    "mobilellm-r1-950m": (
        "llama4_text",
        {
            "hidden_size": 1536, "intermediate_size_mlp": 6144, "intermediate_size": 6144, "num_attention_heads": 24,
            "num_key_value_heads": 6, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True, "num_local_experts": 0,
            "interleave_moe_layer_step": 0, "moe_layers": [],
        },
    ),
    "qwen3-0.6b": ("qwen3", {**QWEN3_06B, "vocab_size": 151936}),
    "qwen3-reranker-0.6b": ("qwen3", {**QWEN3_06B, "vocab_size": 151669}),
    "qwen3-reranker-8b": (
        "qwen3",
        {
            "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151669, "tie_word_embeddings": False,
        },
    ),
}  # fmt: skip


class Worker:
    """A rollout worker that notes what it is sent."""

    def __init__(self):
        self.names: list[str] = []
        self.buckets: list[int] = []
        self.version = None

    def init_weight_transfer_engine(self, info):
        assert info["packed"]

    def start_weight_update(self):
        pass

    def update_weights(self, info):
        self.names += info["names"]
        self.buckets.append(sum(info["tensor_sizes"]))

    def finish_weight_update(self, version):
        self.version = version


def published(name: str) -> ModelWeights:
    """The weights of a preset's model in bf16, in the shapes of the real one, without memory."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    kind, shapes = PUBLISHED[name]
    config = AutoConfig.for_model(kind, num_hidden_layers=2, **shapes)
    make = AutoModel if kind in ("bert", "xlm-roberta") else AutoModelForCausalLM
    with torch.device("meta"):
        return ModelWeights(make.from_config(config, dtype=torch.bfloat16))


@pytest.fixture
def no_gpu(monkeypatch):
    """The calls that need a GPU do nothing, and memory of a GPU is memory of no device."""
    from vllm.distributed.weight_transfer import packed_tensor

    class Torch:
        def __getattr__(self, name):
            return getattr(torch, name)

        def empty(self, *arguments, device, **options):
            return torch.empty(*arguments, device="meta" if device == "cuda" else device, **options)

    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(packed_tensor, "torch", Torch())
    monkeypatch.setattr(packed_tensor, "reduce_tensor", lambda tensor: (None, ("handle",)))
    monkeypatch.setattr(packed_tensor, "_get_streams", lambda index, count: (stream,) * count)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="GPU-0"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)


def test_every_preset_has_its_published_shapes_here():
    assert set(PUBLISHED) == set(NAMES)


@pytest.mark.parametrize("bucket_bytes", [64_000_000, SyncSection().bucket_bytes(on_gpu=True)])
@pytest.mark.parametrize("name", NAMES)
def test_the_ipc_buffer_holds_the_largest_tensor_of_every_model_preset(name, bucket_bytes, no_gpu):
    from r0.actors.sync.vllm_sync import VllmSender

    source, worker = published(name), Worker()
    VllmSender("ipc", source, [worker], 0, 1, 60.0, bucket_bytes, 1).send(7)
    sizes = {name: tensor.nbytes for name, tensor in source}
    assert (worker.names, worker.version) == (list(sizes), 7)
    assert sum(worker.buckets) == sum(sizes.values())
    assert max(worker.buckets) <= max(bucket_bytes, *sizes.values())


@pytest.mark.parametrize("name", NAMES)
def test_nccl_warns_about_no_tensor_that_is_larger_than_a_bucket(name, no_gpu):
    from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

    from r0.actors.sync.vllm_sync import _trainer_info, buffer_bytes

    source, sent = published(name), []
    group = SimpleNamespace(broadcast=lambda tensor, src: sent.append(tensor.nbytes))
    info = _trainer_info("nccl", 1, 2, buffer_bytes(source, 64_000_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed_nccl_broadcast_producer(iter(source), group, 0, lambda item: item[1], info.packed_buffer_size_bytes)
    assert sum(sent) == sum(tensor.nbytes for _, tensor in source)


class Model(torch.nn.Module):
    """A model whose loader returns what it loaded, as vLLM's do."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(2))
        self.b = torch.nn.Parameter(torch.zeros(3))

    def load_weights(self, weights):
        own, loaded = dict(self.named_parameters()), set()
        for name, tensor in weights:
            own[name].data.copy_(tensor)
            loaded.add(name)
        return loaded


def receive(monkeypatch, backend: str, buckets: list[list[str]]) -> Model:
    """One update of vLLM's worker engine for ``backend``, on the CPU, in these buckets."""
    from vllm.distributed.weight_transfer import ipc_engine, nccl_engine
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.model_executor.model_loader import reload

    from r0.actors.sync.vllm_transfer import WorkerExtension  # the import registers, too

    monkeypatch.setattr(reload, "initialize_layerwise_reload", lambda model: None)
    monkeypatch.setattr(reload, "finalize_layerwise_reload", lambda model, config: None)
    model = Model()
    engine = object.__new__(WeightTransferEngineFactory._registry[backend]())
    engine.model, engine.model_config, engine.device, engine.packed = model, None, torch.device("cpu", 0), True

    def tensors(names):
        return [(name, torch.ones_like(dict(model.named_parameters())[name])) for name in names]

    if backend == "ipc":
        engine._packed_importer = SimpleNamespace(close=lambda: None)
        monkeypatch.setattr(ipc_engine, "packed_ipc_consumer", lambda names, **_: tensors(names))
    else:
        engine.model_update_group, engine.packed_buffer_size_bytes, engine.packed_num_buffers = object(), 1, 2
        monkeypatch.setattr(
            nccl_engine,
            "packed_nccl_broadcast_consumer",
            lambda iterator, post_unpack_func, **_: [post_unpack_func(tensors([name])) for name, _ in iterator],
        )
    engine.start_weight_update()
    for names in buckets:
        many = len(names)
        shapes = {"names": names, "shapes": [[1]] * many, "dtype_names": ["float32"] * many, "tensor_sizes": [1] * many}
        engine.receive_weights(SimpleNamespace(**shapes, ipc_handles={}))
    engine.finish_weight_update()
    sent = Digest()
    list(sent.through(tensors([name for names in buckets for name in names])))
    assert WorkerExtension.take_digest(SimpleNamespace(weight_transfer_engine=engine)) == sent.value() != NOTHING
    return model


@pytest.mark.parametrize(("backend", "buckets"), [("ipc", [["a"], ["b"]]), ("nccl", [["a", "b"]])])
def test_an_update_with_all_parameters_is_finished(monkeypatch, backend, buckets):
    model = receive(monkeypatch, backend, buckets)
    assert all(bool((parameter == 1).all()) for parameter in model.parameters())
    assert "load_weights" not in vars(model)  # its own loader is back


@pytest.mark.parametrize(("backend", "buckets"), [("ipc", [["a"]]), ("nccl", [["b"]])])
def test_an_update_that_left_a_parameter_out_is_an_error(monkeypatch, backend, buckets):
    (missing,) = {"a", "b"} - set(buckets[0])
    with pytest.raises(TransferError, match=f"1 parameters were not sent, the first is {missing}"):
        receive(monkeypatch, backend, buckets)
