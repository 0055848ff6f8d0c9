"""Make r0-tiny, the embedded base model: ``python -m r0.tools.tiny`` (``make tiny``).

A Qwen2 of about one million parameters, trained from scratch on honest rows of the built-in task (``r0.tools.tiny_rows``), so
that the skill is there before a warm start spoils it: look a concept up, compare sentences, conclude. Everything is drawn from
``--seed``; with one thread the same seed gives the same weights on the same kind of processor. docs/r0-tiny.md has the recipe.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from r0.process.allocator import keep_freed_blocks
from r0.tools.tiny_model import new_model
from r0.tools.tiny_probes import probe
from r0.tools.tiny_rows import LIST_BLOCK, Stage, draw_row
from r0.tools.tiny_tokenizer import build_tokenizer, encode_row

EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "r0-tiny"
LONG_EVERY = 8  # one batch in so many has long prompts or long documents
EASY_LIST_STEPS = 100  # the first batches of lists are short
EASY_STEPS = 120  # the first batches have documents of two or three sentences and no system prompt: copying is found sooner


def stage_of(step: int, easy: int) -> Stage:
    """The kind of rows in a batch of the base training."""
    return Stage.EASY if step < easy else Stage.LONG if step % LONG_EVERY == LONG_EVERY - 1 else Stage.USUAL


def stage_of_lists(step: int) -> Stage:
    """The kind of rows in a batch of the further training: three of four are lists, the fourth preserves other skills."""
    if step % 4 < 3:
        return Stage.EASY_LIST if step < EASY_LIST_STEPS else Stage.LIST
    return stage_of(step // 4, 0)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, stages: Sequence[Stage], rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch of each stage as (ids [B, T], loss mask [B, T]), padded on the right; the mask marks the tokens to learn."""
    index = list_index = 0
    for stage in stages:
        if stage in (Stage.EASY_LIST, Stage.LIST):
            count, first = LIST_BLOCK, list_index
            list_index += count
        else:
            count, first = rows // 4 if stage == Stage.LONG else rows, index
            index += count
        encoded = [encode_row(tokenizer, draw_row(first + i, seed, stage), random.Random(first + i)) for i in range(count)]
        width = max(len(ids) for ids, _ in encoded)
        ids_BT = torch.full((count, width), tokenizer.pad_token_id)
        mask_BT = torch.zeros(count, width, dtype=torch.bool)
        for b, (ids, learned_from) in enumerate(encoded):
            ids_BT[b, : len(ids)] = torch.tensor(ids)
            mask_BT[b, learned_from : len(ids)] = True
        yield ids_BT, mask_BT


def loss_of(model: Qwen2ForCausalLM, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean cross-entropy over the learned tokens, in nats. Right padding needs no attention mask under causal attention."""
    hidden_BTH = model.model(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
    wanted_BT = mask_BT[:, 1:]
    logits_NV = model.lm_head(hidden_BTH[wanted_BT])
    return torch.nn.functional.cross_entropy(logits_NV.float(), ids_BT[:, 1:][wanted_BT])


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 100 steps, constant for the first half, then a cosine to 2 % of the peak."""
    if step < 100:
        return peak * (step + 1) / 100
    through = max(0.0, step / steps - 0.5) * 2
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * through)))


def train(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> float:
    """Train in place; returns the seconds it took. A line of progress every 50 steps."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), eps=1e-8)
    easy = 0 if args.start_from else EASY_STEPS
    stages = [stage_of_lists(step) if args.lists else stage_of(step, easy) for step in range(args.steps)]
    began, mean = time.monotonic(), 0.0
    model.train()
    for step, (ids_BT, mask_BT) in enumerate(batches(tokenizer, args.seed, stages, args.rows)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        loss = loss_of(model, ids_BT, mask_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        if step % 10 == 9 or step + 1 == args.steps:
            spent = time.monotonic() - began
            left = spent / (step + 1) * (args.steps - step - 1)
            print(f"step {step + 1}/{args.steps}  loss {mean:.4f}  {spent:.0f} s  ETA {left:.0f} s", flush=True)
        if args.save_every and step % args.save_every == args.save_every - 1:
            save(model, tokenizer, Path(args.out))
    return time.monotonic() - began


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write to a temporary folder and rename it, so that a reader never sees an incomplete model."""
    beside = out.with_name(out.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    if out.exists():
        shutil.rmtree(out)
    beside.rename(out)


def main(argv: list[str] | None = None) -> None:
    """Train, save, probe; the probes go to ``probes.json`` beside the weights."""
    parser = argparse.ArgumentParser(prog="tiny", description=__doc__)
    parser.add_argument("--out", default=str(EMBEDDED), help="model folder to write (default: the embedded one)")
    parser.add_argument("--seed", type=int, default=0, help="of rows, batches and initial weights")
    parser.add_argument("--start-from", help="model folder to train on (give another --seed, so that the rows are new)")
    parser.add_argument("--lists", action="store_true", help="three of four batches are lists (with --start-from)")
    parser.add_argument("--steps", type=int, default=1600, help="updates")
    parser.add_argument("--rows", type=int, default=32, help="rows a short batch")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the result may depend on it in the last bits")
    parser.add_argument("--save-every", type=int, default=500, help="updates between saves; 0 = only at the end")
    args = parser.parse_args(argv)
    keep_freed_blocks()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = new_model(tokenizer)
    if args.start_from:
        model.load_state_dict(Qwen2ForCausalLM.from_pretrained(args.start_from, dtype=torch.float32).state_dict())
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens, seed {args.seed}", flush=True)
    seconds = train(model, tokenizer, args)
    save(model, tokenizer, Path(args.out))
    found = probe(model, tokenizer)
    recipe = {"seed": args.seed, "steps": args.steps, "rows": args.rows, "lr": args.lr, "seconds": round(seconds)}
    Path(args.out, "probes.json").write_text(json.dumps({"recipe": recipe, "probes": found}, indent=1) + "\n")
    for name, value in found.items():
        print(f"{name:36} {value:.4f}")


if __name__ == "__main__":
    main()
