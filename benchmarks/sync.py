"""Weight sync against a plain copy of the same bytes: ``python benchmarks/sync.py [--engine vllm|hf] [--dtype fp32|bf16]``.

The learner is this process, the rollout worker a Ray actor with a real engine; both have one thread. Each run times a copy of
all weights in memory (into pages that are already there, the fastest a copy can be) and then a whole sync of them: start, buckets
to the worker, load into the engine, finish. Printed are the medians and the ratio of each pair; the target is at most 4.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from r0.actors.rollout.settings import EngineSettings
from r0.actors.rollout.worker import RolloutWorker
from r0.actors.sync.checkpoint_format import ParamMeta
from r0.actors.sync.sync import make_sender
from r0.process.environment import prepare_environment


class ModelWeights:
    """A transformers model as a weight source."""

    def __init__(self, model: torch.nn.Module):
        self._parameters = dict(model.named_parameters(remove_duplicate=False))

    def metadata(self) -> list[ParamMeta]:
        """Of every tensor, in the order of iteration."""
        return [ParamMeta(name, p.dtype, tuple(p.shape)) for name, p in self._parameters.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, p.detach()) for name, p in self._parameters.items())


def make_model(folder: str, layers: int, dtype: torch.dtype) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        eos_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["vllm", "hf"], default="vllm")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--bucket-mb", type=float, default=64.0)
    chosen = parser.parse_args()
    prepare_environment()
    torch.set_num_threads(1)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, object_store_memory=200 * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(folder, chosen.layers, torch.float32 if chosen.dtype == "fp32" else torch.bfloat16)
        source = ModelWeights(model)
        nbytes = sum(tensor.numel() * tensor.element_size() for _, tensor in source)
        settings = EngineSettings(folder, 256, engine=chosen.engine, dtype=chosen.dtype, max_num_seqs=8, kv_cache_gib=0.25)
        worker = ray.remote(RolloutWorker).options(num_cpus=1).remote(settings)
        sender = make_sender("gloo", source, [worker], 0, 1, deadline_s=300.0, bucket_bytes=int(chosen.bucket_mb * 1e6))
        original = torch.zeros(nbytes, dtype=torch.uint8)
        copy = torch.zeros_like(original)
        pairs = []
        for run in range(chosen.runs + 2):  # two to warm up
            began = time.perf_counter()
            copy.copy_(original)
            copied = time.perf_counter() - began
            synced = sender.send(run + 1)
            if run > 1:
                pairs.append((copied, synced))
        ray.shutdown()
    copied, synced = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(sync / copy for copy, sync in pairs)
    print(f"{chosen.engine} {chosen.dtype}, {nbytes / 1e6:.0f} MB, buckets of {chosen.bucket_mb:g} MB, {len(pairs)} paired runs")
    print(f"copy {copied * 1e3:.0f} ms, sync {synced * 1e3:.0f} ms, ratio {ratio:.1f} (target: at most 4)")


if __name__ == "__main__":
    main()
