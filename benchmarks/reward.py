"""Verdicts and rewards of both stages: how many a second on one core, and how long hostile completions take.

    python benchmarks/reward.py [--repeats 7] [--documents 20]

Measured is ``CompletionReader.verdict`` and the reward from sampled ids and decoded text (of about 1 kB), then the same with the
decoding, then the answers of lists in their three forms (verdict alone, reading of the answer alone, verdict and reward), then
single hostile completions of 100 kB, decoding included. Medians over the repeats, in CPU time of one core; the tokenizer is
trained here (byte-level BPE, 4,096 tokens), so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEXT = (
    "the document query concept mentions explains relation between key terms river valley century bridge engine signal because "
    "however therefore states found present absent connected sentence first second checks whether both stand together"
)
WORDS = TEXT.split()


def build_tokenizer(seed: int):
    """A byte-level BPE tokenizer with the four tags as added tokens, as reasoning models have them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    draw = random.Random(seed)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(draw.choices(WORDS, k=200)) for _ in range(50)], trainer)
    core.add_tokens(["<think>", "</think>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


def list_answers(count: int, documents: int, form: str, seed: int) -> list[str]:
    """Whole answers about lists: orders with a few ties, scores, or picks, all different."""
    draw = random.Random(seed)

    def one() -> str:
        order = [f"[{number}]" for number in draw.sample(range(1, documents + 1), documents)]
        if form == "permutation":
            return order[0] + "".join(f" {'=' if draw.random() < 0.1 else '>'} {label}" for label in order[1:])
        if form == "scores":
            return json.dumps({label[1:-1]: draw.randint(0, 10) for label in sorted(order)})
        return order[0]

    return [one() for _ in range(count)]


def completions(count: int, size: int, seed: int, answers: list[str] | None = None) -> list[str]:
    """Well-formed completions of about ``size`` bytes before the answer, all different; one in four is not ASCII."""
    draw = random.Random(seed)
    made = []
    for index in range(count):
        words: list[str] = []
        while sum(map(len, words)) + len(words) < size - 42:
            words.append(draw.choice(WORDS))
        thought = " ".join(words) + (" é→" if index % 4 == 0 else "")
        answer = answers[index] if answers else draw.choice(("yes", "no"))
        made.append(f"<think>\n{thought}\n</think><answer>{answer}</answer><|end|>")
    return made


def hostile(size: int = 100_000) -> dict[str, str]:
    """Completions made to be slow for a parser that backtracks or searches again."""

    def fill(unit: str) -> str:
        return (unit * (size // len(unit) + 1))[:size]

    return {
        "8,000 open think tags, then text": "<think>" * 8000 + fill("x")[: size - 56_000],
        "open answer tags": fill("<answer>"),
        "alternating pairs": fill("<think></think><answer>yes</answer>"),
        "nested": "<think><answer>" * (size // 32) + "</answer></think>" * (size // 32),
        "closing before opening": fill("</think><think>"),
        "almost tags": "<think>" + fill("</thin</answe<"),
        "one long thought": "<think>" + fill("a b") + "</think><answer>yes</answer>",
        "white space": "<think>a</think>" + fill(" \n\t") + "<answer>yes</answer>",
        "not ASCII": "<think>" + "é→😀" * (size // 9) + "</think><answer>yes</answer>",
        "an endless order": "<think>a</think><answer>" + fill("[1] > ") + "</answer>",
        "an order of white space": "<think>a</think><answer>[1]" + fill(" ") + "</answer>",
        "a number of 100,000 digits": "<think>a</think><answer>[" + fill("9") + "]</answer>",
        "scores nested 20,000 deep": "<think>a</think><answer>" + fill('{"1":') + "</answer>",
        "one score many times": '<think>a</think><answer>{"1": 1' + fill(', "1": 1') + "}</answer>",
    }


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median time for which ``call`` keeps one core busy (CPU time: neighbours on the machine do not count)."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return statistics.median(times)


def measure_lists(reader, tokenizer, count: int, documents: int, repeats: int) -> None:
    """Print the table of the answers of lists."""
    from r0.config.lists import ListRewardSection
    from r0.records import Finish, Form, ListLabel
    from r0.rewards import make_reward
    from r0.text.answers import read_strict

    draw = random.Random(3)
    labels = [
        ListLabel(tuple(draw.choices([0.0, 1.0, 2.0], [8, 1, 1], k=documents)), tuple(draw.sample(range(documents), documents)))
        for _ in range(count)
    ]
    print(f"\n| list of {documents}, thought of about 1 kB | a second | µs each | target |\n|---|---|---|---|")
    for form, presets in ((Form.PERMUTATION, ("r0", "reasonrank")), (Form.PICK, ("rank_r1",)), (Form.SCORES, ("grouprank",))):
        answers = list_answers(count, documents, form, seed=4)
        samples = [tuple(tokenizer.encode(t, add_special_tokens=False)) for t in completions(count, 1000, 5, answers)]
        pairs = [(ids, reader.text(ids)) for ids in samples]

        def judge(form=form, pairs=pairs) -> list:
            return [reader.verdict(ids, text, "", Finish.STOP, form, documents) for ids, text in pairs]

        def read(form=form, answers=answers) -> None:
            for answer in answers:
                read_strict(answer, form, documents)

        verdicts = judge()
        if not all(verdict.well_formed for verdict in verdicts):
            raise RuntimeError(f"not all {form} answers are well formed")
        rows = [(f"{form}: verdict", judge, "≥ 20,000"), (f"{form}: the answer alone", read, "")]
        for preset in presets:
            reward = make_reward(ListRewardSection(preset=preset))

            def judge_and_reward(judge=judge, reward=reward) -> None:
                for verdict, label in zip(judge(), labels, strict=True):
                    reward(verdict, label)

            rows.append((f"{form}: verdict and reward, preset={preset}", judge_and_reward, ""))
        for name, call, target in rows:
            each = median_seconds(call, repeats) / count
            print(f"| {name} | {1 / each:,.0f} | {each * 1e6:.1f} | {target} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--count", type=int, default=4000, help="completions of 1 kB")
    parser.add_argument("--documents", type=int, default=20, help="documents of a list")
    args = parser.parse_args()

    from r0.config.sections import RewardSection
    from r0.rewards import make_reward
    from r0.text.completion import CompletionReader

    tokenizer = build_tokenizer(seed=0)
    reader = CompletionReader(tokenizer)
    reward = make_reward(RewardSection(max_think_tokens=400, missing_eos_penalty=0.5))
    texts = completions(args.count, 1000, seed=1)
    samples = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    decoded = [reader.text(ids) for ids in samples]
    size = statistics.fmean(len(text.encode()) for text in decoded)
    length = statistics.fmean(map(len, samples))

    def judge() -> None:
        for ids, text in zip(samples, decoded, strict=True):
            reward(reader.verdict(ids, text), 1)

    def read() -> None:
        for ids in samples:
            reward(reader.read(ids)[1], 1)

    print(f"completions of {size:.0f} bytes and {length:.0f} tokens, CPU time of one core, median of {args.repeats}")
    print("| what | a second | µs each | target |")
    print("|---|---|---|---|")
    for name, call, target in (("verdict and reward", judge, "≥ 20,000"), ("with decoding", read, "")):
        each = median_seconds(call, args.repeats) / args.count
        print(f"| {name} | {1 / each:,.0f} | {each * 1e6:.1f} | {target} |")

    measure_lists(reader, tokenizer, args.count, args.documents, args.repeats)

    print("\n| hostile completion | tokens | bytes | verdict, reward (ms) | with decoding (ms) | target (ms) |")
    print("|---|---|---|---|---|---|")
    raw_bytes = tuple(random.Random(2).choices([tokenizer.convert_tokens_to_ids(c) for c in "ĠéÀÿĢ<th"], k=100_000))
    cases = {name: tuple(tokenizer.encode(text, add_special_tokens=False)) for name, text in hostile().items()}
    single = tuple(tokenizer.convert_tokens_to_ids(char) for char in "<answer>" * 12_500)
    cases |= {"open answer tags, one byte a token": single, "invalid UTF-8, one byte a token": raw_bytes}
    for name, ids in cases.items():
        text = reader.text(ids)
        alone = median_seconds(lambda ids=ids, text=text: reward(reader.verdict(ids, text, "<think>"), 1), args.repeats)
        whole = median_seconds(lambda ids=ids: reward(reader.read(ids, "<think>")[1], 1), args.repeats)
        print(f"| {name} | {len(ids):,} | {len(text.encode()):,} | {alone * 1e3:.2f} | {whole * 1e3:.2f} | < 10 |")


if __name__ == "__main__":
    main()
