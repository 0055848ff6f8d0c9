"""Long prompts: seconds and memory of one GRPO update of the learner, as prompts grow from 4,000 to 20,000 tokens.

    python benchmarks/long_prompts.py                                  # one CPU thread, a small random model, shared-prefix rows
    python benchmarks/long_prompts.py --prompts 2000 4000 8000 --keep-activations

What a row keeps is linear in its tokens: no mask of T×T, the prompt once for all completions, logits at completion tokens only
and in chunks, and with gradient checkpointing a layer's input instead of its activations. Printed is by how much the process's
resident memory has grown since the model was loaded, its largest value so far (prompts go from short to long).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from learner import make_groups

VOCAB, WIDTH, LAYERS = 4096, 128, 4


def memory(name: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (largest) of this process, in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def make_model(folder: str, positions: int) -> None:
    """Write a random model as a Hugging Face folder."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[4000, 10_000, 20_000], help="prompt tokens")
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--completion", type=int, default=128)
    parser.add_argument("--row-tokens", type=int, default=8192)
    parser.add_argument("--keep-activations", action="store_true", help="without gradient checkpointing")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    from r0.actors.learner.worker import Learner
    from r0.config import StageBConfig

    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, 32_768)
        config = StageBConfig(
            algo="grpo",
            gradient_checkpointing=not args.keep_activations,
            learner={"row_tokens": args.row_tokens, "cpus": float(args.threads)},
        )
        learner = Learner(config, folder, 1000, device="cpu")
    learner.update(make_groups(1, 256, args.completion, args.generations, VOCAB, ragged=False), 0)  # optimizer state, first calls
    before = memory("VmRSS")
    print(
        f"{LAYERS} layers of width {WIDTH}, fp32, G={args.generations}, C={args.completion}, row_tokens={args.row_tokens}, "
        f"gradient_checkpointing={not args.keep_activations}; {before:.0f} MiB with the model loaded"
    )
    print("| prompt | row tokens | seconds | growth (MiB) | KiB a row token | a T×T mask (MiB) |")
    print("|---|---|---|---|---|---|")
    for prompt in sorted(args.prompts):
        groups = make_groups(1, prompt, args.completion, args.generations, VOCAB, ragged=False)
        began = time.perf_counter()
        figures = learner.update(groups, 0)
        seconds = time.perf_counter() - began
        tokens, growth = int(figures["row_tokens"]), memory("VmHWM") - before
        mask = 4 * (prompt + args.generations * args.completion) ** 2 / 2**20
        print(
            f"| {prompt:,} | {tokens:,} | {seconds:.1f} | {growth:.0f} | {growth * 1024 / tokens:.1f} | {mask:.0f} |", flush=True
        )
    learner.close()


if __name__ == "__main__":
    main()
