"""Listwise reranking of 100 queries × 20 documents: two workers with all queries in flight against one query after another.

    python benchmarks/rerank.py [--queries 100] [--window 20] [--step 10] [--new-tokens 96]

Both sides are the Reranker that stands behind the command, with vLLM in float32 on Ray, one thread an engine, prefix caching on:
one worker that gets a query when the one before it is done, and two workers that get all. The model is a random Qwen2 of about
3.6 M parameters with the tokenizer of r0-tiny; what it writes ends with --new-tokens tokens. Starting the engines is not counted.
Printed: seconds and tokens a second of each side, the ratio, and whether both gave the same orders and thoughts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

DOCUMENTS = 20


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
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    print(f"model: {sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def lists(count: int) -> list[tuple[str, list[str]]]:
    """Queries with 20 documents of several sentences each."""
    from r0.data.builtin.pairs import builtin_task

    made = []
    for number in range(count):
        tasks = [builtin_task(number * DOCUMENTS + part, 7) for part in range(DOCUMENTS)]
        made.append((f"{tasks[0].query} {number}", [task.document for task in tasks]))
    return made


def side(model: Path, work: list[tuple[str, list[str]]], workers: int, in_turn: bool, keys: dict) -> tuple[float, list]:
    """Seconds, and the outcomes by query."""
    from r0.config import RankingKeys, RolloutSection
    from r0.rerank import Reranker

    config = RankingKeys(model=str(model), rollout=RolloutSection(workers=workers, max_num_seqs=64), **keys)
    with Reranker.of(config) as reranker:
        list(reranker.run([reranker.job("warm", *work[0])]))
        jobs = [reranker.job(f"q{number}", query, documents) for number, (query, documents) in enumerate(work)]
        began = time.perf_counter()
        if in_turn:
            found = [outcome for job in jobs for outcome in reranker.run([job])]
        else:
            found = list(reranker.run(jobs))
        seconds = time.perf_counter() - began
    number = {job.key: index for index, job in enumerate(jobs)}
    return seconds, sorted(found, key=lambda outcome: number[outcome.key])


def main() -> int:
    parser = argparse.ArgumentParser()
    for name, default in (("queries", 100), ("window", 20), ("step", 10), ("new-tokens", 96)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()

    from r0.process.environment import prepare_environment

    prepare_environment()
    keys = {"window": asked.window, "step": asked.step, "max_new_tokens": asked.new_tokens}
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder))
        work = lists(asked.queries)
        alone, one = side(Path(folder), work, 1, True, keys)
        together, many = side(Path(folder), work, 2, False, keys)
    tokens = sum(outcome.prompt_tokens + outcome.new_tokens for outcome in one)
    asks = sum(len(outcome.replies) for outcome in one)
    print(f"{asked.queries} queries × {DOCUMENTS} documents, {asks} windows of {asked.window}/{asked.step}")
    print(f"  {tokens / asked.queries:,.0f} tokens a query, of which {asked.new_tokens * asks // asked.queries} are sampled")
    print(f"  one after another, one worker:  {alone:7.1f} s  {tokens / alone:8,.0f} tokens/s")
    print(f"  all in flight, two workers:     {together:7.1f} s  {tokens / together:8,.0f} tokens/s")
    same = [(a.ranking, a.replies) for a in one] == [(b.ranking, b.replies) for b in many]
    print(f"  {alone / together:.1f} times faster; {'the same' if same else 'NOT THE SAME'} orders and thoughts")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
