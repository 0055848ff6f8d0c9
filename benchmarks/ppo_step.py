"""One PPO step: r0 against TRL's PPOTrainer on the same CPU, model, shapes and dtype.

    python benchmarks/ppo_step.py --trl PYTHON [--pairs 3] [--steps 3] [--prompt 512]

64 prompts of 512 tokens, one completion of up to 128 tokens each, one epoch of one mini-batch, a critic and a reference model
as large as the policy, float32; the model of grpo_step.py. TRL's last release with a PPO trainer is 1.12
(trl.experimental.ppo), and r0's ``bench`` extra has a newer one: PYTHON is an interpreter that has r0's packages and
trl==1.12.0. TRL's reward is one more model, whose pass over the sequences is part of its step; r0's is a rule. Each side runs
in a process of its own, in turns; the first step of a process (warm-up) is not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from grpo_step import COMPLETION_TOKENS, compare, r0_side

PROMPTS, KL = 64, 0.05
PPO = {"algo": "ppo", "batch_size": PROMPTS, "kl_coef": KL, "ppo.num_ppo_epochs": 1}


def trl_side(model: Path, data: Path, steps: int, prompt_tokens: int) -> list[float]:
    """Seconds of each step of TRL's trainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    texts = [json.loads(line) for line in data.read_text().splitlines()]
    prompts = [tokenizer(f"Query: {row['query']}\nDocument: {row['document']}").input_ids[:prompt_tokens] for row in texts]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_args, **_kwargs):
            ends.append(time.monotonic())

        def on_step_end(self, *_args, **_kwargs):
            ends.append(time.monotonic())

    policy, reference = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for _ in range(2))
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32) for _ in range(2)
    )
    dataset = Dataset.from_dict({"input_ids": prompts})
    with tempfile.TemporaryDirectory() as scratch:
        arguments = PPOConfig(
            output_dir=scratch,
            per_device_train_batch_size=PROMPTS,
            local_rollout_forward_batch_size=PROMPTS,
            total_episodes=PROMPTS * (steps + 1),
            num_ppo_epochs=1,
            num_mini_batches=1,
            num_sample_generations=0,
            response_length=COMPLETION_TOKENS,
            stop_token="eos",
            temperature=1.0,
            kl_coef=KL,
            learning_rate=1e-6,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        PPOTrainer(
            args=arguments,
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=dataset,
            eval_dataset=dataset,
            callbacks=[Clock()],
        ).train()
    return [end - start for start, end in pairwise(ends)][1:]


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", default=sys.executable, metavar="PYTHON", help="an interpreter with trl==1.12.0")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--side", choices=["trl", "r0"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        model, data = arguments.folder / "model", arguments.folder / "rows.jsonl"
        if arguments.side == "trl":
            found = trl_side(model, data, arguments.steps, arguments.prompt)
        else:
            found = r0_side(model, data, arguments.steps, arguments.prompt, 0, PPO)
        print(json.dumps(found))
        return
    compare(__file__, arguments.trl, arguments, [], prompts=128)


if __name__ == "__main__":
    main()
