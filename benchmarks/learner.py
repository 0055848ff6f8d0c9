"""The learner's speed: shared-prefix rows against padded rows, as paired medians; outside Ray.

    python benchmarks/learner.py                                  # 2 CPU cores, a model of 3.7 M parameters
    python benchmarks/learner.py --device cuda --shape 1.5b       # random weights in the shape of DeepSeek-R1-Distill-Qwen-1.5B
    python benchmarks/learner.py --ragged                         # prompts and completions of unlike length, as in a run
    python benchmarks/learner.py --dtype bf16 --shape 140m        # is bf16 worth it on this CPU?

Padded rows compute one ``[prompt][completion]`` a line, padded to the longest, and log-probabilities at completion tokens only.
Beside it stands the share of the device's matrix product, measured here, and of a known card's peak. It counts 6 · parameters ·
tokens (the output head at completion tokens only) and the attention over attended pairs; what gradient checkpointing computes
again is not counted. cuDNN's attention is off, as in a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # r0, where it is not installed

from r0.records import TrainCompletion, TrainGroup

SHAPES = {  # vocabulary, width, intermediate width, layers, heads; always 2 key heads
    "tiny": (2048, 128, 256, 2, 4),
    "3.7m": (4096, 192, 768, 4, 6),
    "140m": (32768, 640, 2048, 24, 10),
    "0.5b": (151936, 896, 4864, 24, 14),
    "1.5b": (151936, 1536, 8960, 28, 12),
}
TIED = ("140m", "0.5b")  # shapes whose output head is the input embedding
PEAKS = {  # dense bf16, per the makers; the first name that fits counts
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
}


def peak_of(card: str) -> float:
    """Operations a second that the maker of the named card states; 0 where it is not in the list."""
    return next((value for key, value in PEAKS.items() if key in card), 0.0)


def device_name(text: str) -> str:
    """``cpu`` or ``cuda:N``; ``cuda`` is the first GPU."""
    if text == "cuda":
        return "cuda:0"
    if text == "cpu" or (text.startswith("cuda:") and text[5:].isdigit()):
        return text
    raise argparse.ArgumentTypeError(f"{text} is none of cpu, cuda, cuda:N")


def make_model(shape: str, folder: str, device: str, seed: int = 0, spread: float | None = None) -> None:
    """Write a random model (bf16 for a GPU) as a Hugging Face folder.

    Args:
        shape: a name in SHAPES.
        folder: to write.
        device: on which the weights are drawn.
        seed: of the weights.
        spread: standard deviation of the logits (a trained model's is about 3); None: as initialised, below 1.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = dict(zip(names, SHAPES[shape], strict=True))
    config = Qwen2Config(**sizes, num_key_value_heads=2, max_position_embeddings=8192, tie_word_embeddings=shape in TIED)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    if spread is not None:
        with torch.no_grad():  # the last norm gives vectors of length √width
            model.lm_head.weight.mul_(spread / (config.initializer_range * config.hidden_size**0.5))
    model.to(torch.float32 if device == "cpu" else torch.bfloat16).save_pretrained(folder)


def make_groups(
    count: int, prompt: int, completion: int, generations: int, vocab: int, ragged: bool, seed: int = 0
) -> list[TrainGroup]:
    """Random groups; ``ragged`` draws lengths of prompts and of completions from [half, all] of the given tokens."""
    draw = random.Random(seed)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocab) for _ in range(draw.randint(most // 2, most) if ragged else most))

    def one() -> TrainCompletion:
        ids = tokens(completion)
        return TrainCompletion(ids, (-8.0,) * len(ids), draw.random(), 0)

    return [TrainGroup(tokens(prompt), tuple(one() for _ in range(generations))) for _ in range(count)]


def work(config, groups: list[TrainGroup]) -> float:
    """Floating-point operations that an update on shared-prefix rows needs: forward and backward."""
    head = config.hidden_size * config.vocab_size
    kv = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    layer = 2 * config.hidden_size * (config.hidden_size + kv) + 3 * config.hidden_size * config.intermediate_size
    total = 0.0
    for group in groups:
        p, lengths = len(group.prompt_ids), [len(c.token_ids) for c in group.completions]
        pairs = p * (p + 1) / 2 + sum(c * p + c * (c + 1) / 2 for c in lengths)
        total += 6 * layer * config.num_hidden_layers * (p + sum(lengths)) + 6 * head * sum(lengths)
        total += 12 * config.hidden_size * config.num_hidden_layers * pairs
    return total


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(20):
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times)


def timed(learner, groups: list) -> float:
    """Seconds of one update."""
    began = time.perf_counter()
    learner.update(groups, 0)
    if learner.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def use_rows(learner, shared: bool) -> None:
    """Switch a learner between shared-prefix and padded rows."""
    from r0.actors.learner import attention

    learner.networks = dataclasses.replace(learner.networks, shared_prefix=shared)
    learner.updater.networks = learner.networks
    learner.networks.policy.module.model.set_attn_implementation(attention.NAME if shared else "sdpa")


def measure(learner, groups: list, repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds and peak GiB of both kinds of rows, taken in turn."""
    times: dict[str, list[float]] = {"shared": [], "padded": []}
    peak: dict[str, float] = {}
    cuda = learner.device.type == "cuda"
    for repeat in range(repeats + 1):
        for kind in times:
            use_rows(learner, kind == "shared")
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            seconds = timed(learner, groups)
            peak[kind] = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
            if repeat:  # the first is warm-up
                times[kind].append(seconds)
    return {kind: (statistics.median(values), peak[kind]) for kind, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", type=device_name, default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--shape", choices=tuple(SHAPES))
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 2048], help="prompt tokens")
    parser.add_argument("--completion", type=int, help="completion tokens (CPU 128, GPU 256)")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--groups", type=int, help="groups an update (CPU 4, GPU 16)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--row-tokens", type=int, help="token budget of a row (CPU 8192, GPU 16384)")
    parser.add_argument("--ragged", action="store_true", help="prompts and completions of unlike length")
    parser.add_argument("--compile", action="store_true", help="learner.compile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto", help="learner.dtype")
    args = parser.parse_args()
    cuda = args.device != "cpu"
    shape = args.shape or ("1.5b" if cuda else "3.7m")
    completion = args.completion or (256 if cuda else 128)

    from r0.actors.learner.worker import Learner
    from r0.config import StageAConfig

    if cuda:
        torch.backends.cuda.enable_cudnn_sdp(False)
    with tempfile.TemporaryDirectory() as folder:
        make_model(shape, folder, args.device)
        config = StageAConfig(
            algo="grpo",
            gradient_checkpointing=cuda,
            learner={
                "row_tokens": args.row_tokens or (16384 if cuda else 8192),
                "cpus": float(args.threads),
                "compile": args.compile,
                "dtype": args.dtype,
            },
        )
        learner = Learner(config, folder, 1000, device=args.device)
    model = learner.networks.policy.module.model
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{shape}: {parameters / 1e6:.1f} M parameters, {model.dtype}, {args.device}, G={args.generations}, C={completion}")
    name = torch.cuda.get_device_name(learner.device) if cuda else ""
    peak, ceiling = peak_of(name), matmul_ceiling(learner.device, model.dtype)
    print(f"{f'{name}: peak {peak / 1e12:.0f} Tflop/s, ' * cuda}measured matrix product {ceiling / 1e12:.2f} Tflop/s")
    for prompt in args.prompts:
        count = args.groups or (16 if cuda else 4)
        groups = make_groups(count, prompt, completion, args.generations, model.config.vocab_size, args.ragged)
        found = measure(learner, groups, args.repeats)
        tokens = sum(len(g.prompt_ids) + sum(len(c.token_ids) for c in g.completions) for g in groups)
        flops = work(model.config, groups)
        (shared, shared_gib), (padded, padded_gib) = found["shared"], found["padded"]
        speed = f"{padded / shared:.2f}x; {tokens / shared:,.0f} tokens/s"
        lengths = f"{prompt // 2} to {prompt}" if args.ragged else f"{prompt}"
        print(f"P={lengths}: shared {shared:.3f} s, padded {padded:.3f} s, {speed}", flush=True)
        of_peak = f"{flops / shared / peak:.1%} of peak, " if peak else ""
        memory = f"; {shared_gib:.1f} / {padded_gib:.1f} GiB" if cuda else ""
        print(f"  {of_peak}{flops / shared / ceiling:.1%} of the measured product{memory}", flush=True)


if __name__ == "__main__":
    main()
