"""Late interaction over kept document vectors, against encoding them, and against a cross-encoder of the same backbone.

    python benchmarks/late_interaction.py [--queries 20] [--documents 100] [--corpus 500] [--rounds 3]

Every query has --documents candidates, drawn from a corpus of --corpus built-in documents of about --words words. Three sides, in
turn, each with one thread in float32 through the Reranker that stands behind the command: late interaction that keeps vectors in
an empty folder (cold), the same again (warm), and a cross-encoder. The backbone is a random BERT of --layers layers of --width.
Loading is not counted. Printed: documents scored a second of processor time (others on the machine change it little), the ratios
of each round and their median, and the largest difference between cold and warm scores.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Lists = list[tuple[str, list[str]]]


def make_models(folder: Path, width: int, layers: int) -> tuple[str, str]:
    """A multi-vector encoder of 128 numbers a token and a cross-encoder, of the same random BERT."""
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from r0.storage.models import model_folder

    tokenizer = AutoTokenizer.from_pretrained(model_folder("r0-tiny"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * width, num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    cross = BertForSequenceClassification(config)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    for name, model in (("cross", cross), ("backbone", cross.bert)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tokens = {"module_input_name": "token_embeddings"}
    modules = [
        Transformer(str(folder / "backbone")),
        Dense(width, 128, bias=False, activation_function=torch.nn.Identity(), **tokens),
        MultiVectorMask(),
        Normalize(**tokens),
    ]
    MultiVectorEncoder(modules=modules, device="cpu").save_pretrained(str(folder / "late"))
    return str(folder / "late"), str(folder / "cross")


def make_lists(queries: int, documents: int, corpus: int, words: int) -> Lists:
    """Queries, each with documents of one corpus."""
    from r0.data.builtin.pairs import builtin_task

    dice = random.Random(7)
    sentences = [builtin_task(number, 7).document for number in range(2 * corpus)]
    texts = []
    for number in range(corpus):
        text = f"{number}"
        while len(text.split()) < words:
            text += " " + dice.choice(sentences)
        texts.append(text)
    return [(f"{builtin_task(number, 8).query} {number}", dice.sample(texts, documents)) for number in range(queries)]


def side(model: str, lists: Lists, method: str, cache: Path | None = None) -> tuple[float, dict[str, list[float]]]:
    """Documents scored a second of processor time, and the scores by query."""
    from r0.rerank import Reranker

    options = {} if cache is None else {"vector_cache": str(cache)}
    with Reranker(model, method, device="cpu", max_num_seqs=32, **options) as reranker:
        reranker.predict([("warm", "up")])
        jobs = {job.key: job for job in (reranker.job(query, query, documents, each=True) for query, documents in lists)}
        began = time.process_time()
        outcomes = list(reranker.run(jobs.values()))
        seconds = time.process_time() - began
    scores = {jobs[one.key].query: [reply.probability for _, reply in one.replies] for one in outcomes}
    return sum(len(documents) for _, documents in lists) / seconds, scores


def main() -> int:
    parser = argparse.ArgumentParser()
    defaults = {"queries": 20, "documents": 100, "corpus": 500, "words": 100, "width": 256, "layers": 6, "rounds": 3}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()

    from r0.process.environment import prepare_environment

    prepare_environment()
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    found: dict[str, list[float]] = {"cold": [], "warm": [], "cross-encoder": []}
    apart = 0.0
    with tempfile.TemporaryDirectory() as name:
        late, cross = make_models(Path(name), asked.width, asked.layers)
        lists = make_lists(asked.queries, asked.documents, asked.corpus, asked.words)
        for number in range(asked.rounds):
            cache = Path(name) / f"vectors {number}"
            cold, first = side(late, lists, "late_interaction", cache)
            warm, second = side(late, lists, "late_interaction", cache)
            pairwise, _ = side(cross, lists, "pointwise")
            for key, value in zip(found, (cold, warm, pairwise), strict=True):
                found[key].append(value)
            apart = max(apart, *(abs(a - b) for query in first for a, b in zip(first[query], second[query], strict=True)))
            size = sum(path.stat().st_size for path in cache.iterdir())
            print(f"round {number + 1}: " + ", ".join(f"{key} {values[-1]:,.0f}" for key, values in found.items()), flush=True)
        distinct = len({text for _, texts in lists for text in texts})
    print(f"{asked.queries} queries × {asked.documents} documents, {distinct:,} distinct; a second of processor time, medians:")
    for key, values in found.items():
        ratios = [value / other for value, other in zip(values, found["cross-encoder"], strict=True)]
        each = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        print(f"  {key:<14} {statistics.median(values):>9,.0f}   {statistics.median(ratios):6.1f} × the cross-encoder ({each})")
    ratios = [warm / cold for warm, cold in zip(found["warm"], found["cold"], strict=True)]
    print(f"  warm is {statistics.median(ratios):.1f} × cold ({', '.join(f'{ratio:.1f}' for ratio in ratios)})")
    print(f"  kept: {size / 2**20:.0f} MiB; the largest difference of a score, cold and warm: {apart:.1e}")
    return 0 if apart < 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
