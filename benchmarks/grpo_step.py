"""One GRPO step: r0 against TRL's GRPOTrainer on the same CPU, model, shapes and dtype.

    python benchmarks/grpo_step.py [--pairs 3] [--steps 3] [--prompt 512] [--staleness 0]

8 prompts of 512 tokens × 8 completions of up to 128 tokens, one update, float32, a random Qwen2 of about 3.7 M parameters with
the tokenizer of r0-tiny. The reward is 0 or 1, and constant in every other group; r0 computes one of those.
Each side runs in a process of its own, in turns; the first step of a process (warm-up) is not counted.
r0 samples with two engines of one thread and learns with two threads; its step is everything between two steps: sampling with
vLLM, rewards, update, weight sync, record. Printed: the median step of each run, and the ratio pair by pair. TRL needs the
``bench`` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

PROMPTS, GENERATIONS, COMPLETION_TOKENS = 8, 8, 128
GRPO = {"algo": "grpo", "batch_size": PROMPTS, "grpo.num_generations": GENERATIONS, "kl_coef": 0}


def reward(number: int) -> float:
    """The reward of a completion, by its number: 0 in one group, 0 and 1 in the next."""
    return float(number // GENERATIONS % 2 and number % 2)


def make_reward(_section):
    """``reward`` as r0 builds it from an entry point; completions come group by group."""
    numbers = count()
    return lambda _verdict, _label: {"reward": reward(next(numbers))}


def register_reward(folder: Path) -> None:
    """Make this file look like an installed package with a reward."""
    package = folder / "grpo_step_reward-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: grpo-step-reward\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[r0.rewards]\nhalf_spread = grpo_step:make_reward\n")


def build_model(folder: Path) -> None:
    """Save the random model; 4 layers of width 256, tied embeddings."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from r0.storage.models import model_folder

    tokenizer = AutoTokenizer.from_pretrained(model_folder("r0-tiny"))
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    print(f"model: {sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rows(total: int, prompt_tokens: int) -> list[dict]:
    """Pointwise rows whose documents are longer than the budget, so that every prompt has ``prompt_tokens`` tokens."""
    from r0.data.builtin.pairs import builtin_task

    made, parts = [], prompt_tokens // 16
    for number in range(total):
        tasks = [builtin_task(number * parts + part, 7) for part in range(parts)]
        document = " ".join(task.document for task in tasks)
        made.append({"query": f"{tasks[0].query} {number}", "document": document, "think": "", "answer": "no", "label": 0})
    return made


def trl_side(model: Path, data: Path, steps: int, prompt_tokens: int, _staleness: int) -> list[float]:
    """Seconds of each step of TRL's trainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line) for line in data.read_text().splitlines()]
    prompts = []
    for row in texts:
        ids = tokenizer(f"Query: {row['query']}\nDocument: {row['document']}").input_ids[:prompt_tokens]
        prompts.append({"prompt": tokenizer.decode(ids)})

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_args, **_kwargs):
            self.start = time.monotonic()

        def on_step_end(self, *_args, **_kwargs):
            seconds.append(time.monotonic() - self.start)

    def rewards(completions, **_kwargs):
        return [reward(number) for number in range(len(completions))]

    with tempfile.TemporaryDirectory() as scratch:
        arguments = GRPOConfig(
            output_dir=scratch,
            per_device_train_batch_size=PROMPTS * GENERATIONS,
            num_generations=GENERATIONS,
            max_completion_length=COMPLETION_TOKENS,
            max_steps=steps + 1,
            learning_rate=1e-6,
            beta=0.0,
            temperature=1.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        GRPOTrainer(
            model=str(model),
            processing_class=tokenizer,
            reward_funcs=rewards,
            args=arguments,
            train_dataset=Dataset.from_list(prompts),
            callbacks=[Clock()],
        ).train()
    return seconds[1:]


def r0_side(model: Path, data: Path, steps: int, prompt_tokens: int, staleness: int, algorithm: dict = GRPO) -> list[float]:
    """Seconds of each step of r0, from its own record, Ray and all."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "run"
        register_reward(Path(scratch))
        settings = {
            **algorithm, "model": model, "data": data, "output": output, "max_steps": steps + 1,
            "max_prompt_tokens": prompt_tokens, "max_new_tokens": COMPLETION_TOKENS,
            "temperature": 1.0, "learner.dtype": "fp32", "rollout.dtype": "fp32", "learner.cpus": 2,
            "rollout.cpus": 1, "rollout.workers": 2, "gradient_checkpointing": "false",
            "eval.every": 0, "heldout_share": 0, "epochs": 1000, "reward.name": "half_spread", "sync.max_staleness": staleness,
        }  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([scratch, str(Path(__file__).parent)])}
        command = [sys.executable, "-m", "r0.launch", "stage_a", *(f"{name}={value}" for name, value in settings.items())]
        finished = subprocess.run(command, capture_output=True, text=True, env=environment)
        if finished.returncode:
            raise SystemExit(f"r0 failed:\n{finished.stdout}\n{finished.stderr}")
        lines = [json.loads(line) for line in (output / "timings.jsonl").read_text().splitlines()]
    return [line["total"] for line in lines if "total" in line][1:]


def one_side(python: str, script: str, side: str, folder: Path, options: list[str]) -> float:
    """Run one side of a script in a process of its own; the median of its seconds a step."""
    command = [python, script, "--side", side, "--folder", str(folder), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    if finished.returncode:
        raise SystemExit(f"{side} failed:\n{finished.stdout[-4000:]}\n{finished.stderr[-4000:]}")
    return statistics.median(json.loads(finished.stdout.splitlines()[-1]))


def compare(script: str, trl: str, arguments: argparse.Namespace, options: list[str], prompts: int) -> None:
    """Run both sides of a script in turns and print the table. ``trl``: the interpreter of TRL's side."""
    options = [f"--steps={arguments.steps}", f"--prompt={arguments.prompt}", *options]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build_model(folder / "model")
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(prompts, arguments.prompt)))
        ratios = []
        print(f"{'pair':>4}  {'TRL s/step':>10}  {'r0 s/step':>10}  {'ratio':>6}")
        for pair in range(arguments.pairs):
            theirs = one_side(trl, script, "trl", folder, options)
            ours = one_side(sys.executable, script, "r0", folder, options)
            ratios.append(theirs / ours)
            print(f"{pair + 1:>4}  {theirs:>10.2f}  {ours:>10.2f}  {ratios[-1]:>6.1f}", flush=True)
        print(f"median ratio: {statistics.median(ratios):.1f}")


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--staleness", type=int, default=0, help="r0's sync.max_staleness")
    parser.add_argument("--side", choices=["trl", "r0"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side = trl_side if arguments.side == "trl" else r0_side
        model, data = arguments.folder / "model", arguments.folder / "rows.jsonl"
        print(json.dumps(side(model, data, arguments.steps, arguments.prompt, arguments.staleness)))
        return
    compare(__file__, sys.executable, arguments, [f"--staleness={arguments.staleness}"], prompts=64)


if __name__ == "__main__":
    main()
