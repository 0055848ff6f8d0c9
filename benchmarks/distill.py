"""Distillation on the built-in task: a thinking teacher, a fresh cross-encoder as student; what it keeps, how much faster it is.

    python benchmarks/distill.py                      # r0-tiny teaches a BERT of two layers, on CPU cores
    python benchmarks/distill.py --teacher FOLDER --lists 2000 [key=value …]

One `distill` run does all: the teacher judges each document after a thought (vLLM), triplets, MarginMSE, evaluation on lists of
other queries. Then teacher and student score the same documents in turns, each with its natural engine (vLLM;
sentence-transformers) and one thread. The student has never been trained: its weights are random, but that queries begin equal to
keys, so that a token looks for tokens like itself (mimetic initialization, Trockman & Kolter, 2023). It shares the teacher's
tokenizer, in which a word is a token. Documents of the highest grade are the positives. Further keys go to `distill`.
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
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"

TEST_FROM = 1_000_000  # index of the first test list: others than any that was trained on


def make_student(folder: Path, seed: int, width: int = 128, layers: int = 2) -> int:
    """Write a fresh BERT with a score head and r0-tiny's tokenizer; returns its parameters."""
    import torch
    from tokenizers import processors
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from r0.storage.models import model_folder

    core = AutoTokenizer.from_pretrained(model_folder("r0-tiny")).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, cls_token="[CLS]", sep_token="[SEP]", pad_token="<|pad|>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    first, between = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", first), ("[SEP]", between)]
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=2 * width, max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=width**-0.5,
        pad_token_id=tokenizer.pad_token_id, num_labels=1,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.self.key.weight.copy_(layer.attention.self.query.weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def lists(seed: int, first: int, count: int) -> Iterator[dict]:
    """Built-in lists in the layout of stackoverflowdupquestions-reranking."""
    from r0.data.labelled import LabelledKind, builtin_labelled

    for one in builtin_labelled(LabelledKind.POSITIVES, seed, range(first, first + count)):
        sides: dict[str, list[str]] = {"positive": [], "negative": []}
        for document, label in zip(one.documents, one.labels, strict=True):
            sides["positive" if label else "negative"].append(document)
        yield {"query": one.query, **sides}


def orders(seed: int, count: int) -> dict[str, float]:
    """nDCG@10 on the test lists of a random order (the expectation) and of the built-in first stage's."""
    from r0.data.builtin.lists import builtin_list_task
    from r0.data.labelled import BUILTIN_DOCUMENTS, LabelledKind, builtin_labelled
    from r0.ranking import ndcg
    from r0.records import Form

    found: dict[str, list[float]] = {"a random order": [], "the given order": []}
    for one in builtin_labelled(LabelledKind.POSITIVES, seed, range(TEST_FROM, TEST_FROM + count)):
        task = builtin_list_task(int(one.place.rpartition(":")[2]), seed, Form.PERMUTATION, BUILTIN_DOCUMENTS)
        found["a random order"].append(ndcg(one.labels, [list(range(len(one.labels)))], 10))
        found["the given order"].append(ndcg(one.labels, [[place] for place in task.label.given], 10))
    return {name: statistics.mean(values) for name, values in found.items()}


def speeds(teacher: str, student: str, test: Path, turns: int) -> dict[str, float]:
    """Documents a second of both, medians over turns; engines are started and warm before the clock runs."""
    from r0.rerank import Reranker

    rows = [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines()]
    pairs = [(row["query"], document) for row in rows for document in (*row["positive"], *row["negative"])]
    seconds: dict[str, list[float]] = {"teacher": [], "student": []}
    with (
        Reranker(teacher, method="pointwise", engine="vllm", thinking=True, max_new_tokens=256, dtype="fp32") as thinks,
        Reranker(student, method="pointwise", engine="hf", dtype="fp32", max_num_seqs=64) as scores,
    ):
        sides = {"teacher": thinks, "student": scores}
        for reranker in sides.values():
            reranker.predict(pairs[:100])
        for turn in range(turns):
            for name in sides if turn % 2 == 0 else reversed(sides):
                start = time.monotonic()
                sides[name].predict(pairs)
                seconds[name].append(time.monotonic() - start)
    return {name: len(pairs) / statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="r0-tiny")
    parser.add_argument("--lists", type=int, default=1000, help="training lists of six documents, all judged by the teacher")
    parser.add_argument("--test", type=int, default=200, help="test lists")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--turns", type=int, default=3, help="times that each side is timed")
    parser.add_argument("--output", help="folder to keep; empty: a temporary one")
    parser.add_argument("keys", nargs="*", help="further keys of distill")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.output or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        from r0.storage.models import model_folder
        from r0.storage.weight_files import parameters

        student = folder / "student"
        count = make_student(student, given.seed)
        print(f"teacher {parameters(model_folder(given.teacher)) / 1e6:.2f} M parameters, student {count / 1e6:.2f} M, fresh")
        for name, first, number in (("train", 0, given.lists), ("test", TEST_FROM, given.test)):
            rows = lists(given.seed, first, number)
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        keys = {
            "data": folder / "train.jsonl", "test": folder / "test.jsonl", "model": student, "output": folder / "run",
            "teacher.model": given.teacher, "teacher.thinking": "true", "teacher.max_new_tokens": 256, "max_prompt_tokens": 128,
            "epochs": 8, "batch_size": 32, "micro_batch_size": 32, "learning_rate": 2e-3, "stable_ratio": 0.5, "log_every": 20,
            "ray.inline": "true", "seed": given.seed,
        }  # fmt: skip
        start = time.monotonic()
        arguments = [*(f"{name}={value}" for name, value in keys.items()), *given.keys]
        subprocess.run([sys.executable, "-m", "r0.launch", "distill", *arguments], check=True)
        print(f"distill: {time.monotonic() - start:.0f} s in all")
        for name, value in orders(given.seed, given.test).items():
            print(f"nDCG@10 of {name}: {value:.4f}")
        rates = speeds(given.teacher, str(folder / "run" / "train" / "model"), folder / "test.jsonl", given.turns)
        print(f"documents a second, one thread each: teacher {rates['teacher']:.0f}, student {rates['student']:.0f}", end="")
        print(f" ({rates['student'] / rates['teacher']:.1f} ×)")


if __name__ == "__main__":
    main()
