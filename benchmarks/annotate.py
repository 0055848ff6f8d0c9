"""``annotate`` with two workers against the same engines called directly, start-up left out.

    python benchmarks/annotate.py [--rounds 5] [--pairs 512] [--new-tokens 256] [--at-once 32] [--width 512]

Baseline: two processes side by side, each with one vLLM engine (float32, one thread, prefix caching on) that is handed the
token ids of half of a round's requests in one call of ``generate``. Against it: ``annotate`` with two workers of one thread
each on Ray, from the texts of the same pairs to the lines of ``annotations.jsonl``; it writes the prompts, deals them out,
reads the completions and keeps them. All four engines are up before anything is timed. Rounds have pairs of their own; in a
round the two sides take turns, in an order that changes, so that each has both cores. The model is a random Qwen2 with the
tokenizer of r0-tiny, of 9.8 M parameters at --width 512; what it writes has about 110 tokens on average, of geometric length
up to --new-tokens.

Of every engine two figures: tokens a second of wall time, until the last of its own completions is there; and the same
without the time in which its thread could have run but other processes had the cores (Linux counts that:
/proc/PID/task/TID/schedstat). The second does not depend on what else the machine does. From it the ratio is taken, and there
half of the CPU seconds of the driver are charged to each worker, as on a machine of two cores, beside all time that a worker
waits for the driver. A worker's ratio is to the mean of the two direct engines in the same round.

Printed: both figures by round, for each worker the median ratio (target: at least 0.95), and whether both sides sampled the
same number of tokens, as the same requests and seeds must.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

PROMPT_TOKENS = 1024
TARGET = 0.95


def build_model(folder: Path, width: int) -> None:
    """Save the random model; 4 layers, tied embeddings."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from r0.storage.models import model_folder

    tokenizer = AutoTokenizer.from_pretrained(model_folder("r0-tiny"))
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    print(f"model: {sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters", flush=True)
    # All tokens are about as likely, so one in 126 ends a completion.
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(100, 113)]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Spent(NamedTuple):
    """What an engine did in a round."""

    tokens: int
    wall_s: float
    queued_s: float  # of them: ready to run, and other processes had the cores
    charged_s: float = 0.0  # of the driver's work

    @property
    def rate(self) -> float:
        """Tokens a second of wall time."""
        return self.tokens / self.wall_s

    @property
    def own_rate(self) -> float:
        """Tokens a second, as if nothing else had run but the driver."""
        return self.tokens / (self.wall_s - self.queued_s + self.charged_s)


def queued(pid: int) -> float:
    """Seconds for which the main thread of a process has waited for a core."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9


def direct(pipe: Connection, settings: Any, temperature: float, new_tokens: int) -> None:
    """A process with one engine: is sent requests, answers with what it spent."""
    from r0.actors.rollout.engines import make_engine
    from r0.process.environment import prepare_environment

    prepare_environment()
    engine = make_engine(settings)
    pipe.send("ready")
    while requests := pipe.recv():
        began, waited = time.perf_counter(), queued(os.getpid())
        sampled = engine.sample(requests, temperature, new_tokens, greedy=False)
        tokens = sum(len(one.token_ids) for one in sampled)
        pipe.send(Spent(tokens, time.perf_counter() - began, queued(os.getpid()) - waited))
    engine.close()


def pairs_of(number: int, count: int) -> Any:
    """The pairs of a round."""
    from r0.data.builtin.rows import BuiltinRows
    from r0.teacher.annotate_pairs import Pairs

    return Pairs(BuiltinRows(count, seed=1000 + number))


def requests_of(pairs: Any, keys: Any, tokenizer: Any) -> list[Any]:
    """What the workers ask their engines for the pairs."""
    from r0.records import Form
    from r0.rerank.job import Job
    from r0.rerank.judge import Judge
    from r0.rerank.protocol import Question

    judge = Judge(tokenizer, keys, PROMPT_TOKENS)
    found = []
    for key in pairs:
        task = pairs.task(pairs.row(key))
        job = Job(0, f"{key:016x}", task.query, (task.document,), samples=1)
        found.append(next(judge.reply_to(job, Question((0,), Form.YES_NO))).request)
    return found


class Meter:
    """What each worker of a reranker spends."""

    def __init__(self, reranker: Any):
        import ray

        self._pids = ray.get([worker.pid.remote() for worker in reranker.workers])
        group, one_round = reranker._group, reranker._group._round
        self.start()

        def counted(shares: Any) -> Any:
            found = one_round(shares)
            for share, outcomes in found:
                if outcomes:
                    self._tokens[share.index] += sum(outcome.new_tokens for outcome in outcomes)
                    self._last[share.index] = time.perf_counter(), queued(self._pids[share.index])
            return found

        group._round = counted

    def start(self) -> None:
        """Begin a round."""
        self._tokens: Counter[int] = Counter()
        self._last: dict[int, tuple[float, float]] = {}
        self._began, self._queued, self._driver = time.perf_counter(), list(map(queued, self._pids)), time.process_time()

    def spent(self) -> list[Spent]:
        """Of the round, worker by worker."""
        each = (time.process_time() - self._driver) / len(self._pids)
        found = []
        for index, before in enumerate(self._queued):
            ended, waited = self._last[index]
            found.append(Spent(self._tokens[index], ended - self._began, waited - before, each))
        return found


def called_directly(pipes: list[Connection], requests: list[Any]) -> list[Spent]:
    """What each process spends on its part of the requests."""
    for number, pipe in enumerate(pipes):
        pipe.send(requests[number :: len(pipes)])
    return [pipe.recv() for pipe in pipes]


def annotated(reranker: Any, meter: Meter, pairs: Any, folder: Path) -> list[Spent]:
    """What each worker spends on annotating the pairs."""
    from r0.rerank.session import ask
    from r0.teacher.annotate import pairs_to_annotate
    from r0.teacher.annotate_store import Annotations

    with Annotations(folder / f"{time.monotonic_ns()}.jsonl", pairs, lambda row: None) as done:
        meter.start()
        ask(reranker, pairs_to_annotate(1, pairs, done))
        return meter.spent()


def main() -> int:
    parser = argparse.ArgumentParser()
    for name, default in (("rounds", 5), ("pairs", 512), ("new-tokens", 256), ("at-once", 32), ("width", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()

    from transformers import AutoTokenizer

    from r0.actors.rollout.settings import EngineSettings
    from r0.config import AnnotateConfig, RolloutSection
    from r0.process.environment import prepare_environment
    from r0.rerank import Reranker
    from r0.teacher.annotate import teacher_keys
    from r0.text.answer_position import ANSWER_PREFIX_TOKENS

    prepare_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_model(folder, asked.width)
        rollout = RolloutSection(workers=2, max_num_seqs=asked.at_once, dtype="fp32", kv_cache_gib=0.5)
        config = AnnotateConfig(
            model=name, max_new_tokens=asked.new_tokens, max_prompt_tokens=PROMPT_TOKENS, temperature=1.0, rollout=rollout
        )
        keys = teacher_keys(config, folder)
        settings = EngineSettings.of_rollout(rollout, name, PROMPT_TOKENS + asked.new_tokens + ANSWER_PREFIX_TOKENS, device="cpu")
        context = multiprocessing.get_context("spawn")
        pipes, processes = [], []
        for _ in range(2):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=direct, args=(theirs, settings, 1.0, asked.new_tokens), daemon=True))
            processes[-1].start()
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with Reranker.of(keys) as reranker:
            same, ratios = measure(asked, keys, tokenizer, reranker, pipes, folder)
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(60)
    medians = [statistics.median(each) for each in zip(*ratios, strict=True)]
    print(f"each worker's tokens a second to a direct engine's, median of {len(ratios)} rounds: ", end="")
    print(f"{medians[0]:.3f} and {medians[1]:.3f} (target: at least {TARGET}); {'the same' if same else 'NOT THE SAME'} tokens")
    return 0 if same else 1


def measure(
    asked: argparse.Namespace, keys: Any, tokenizer: Any, reranker: Any, pipes: list[Connection], folder: Path
) -> tuple[bool, list[list[float]]]:
    """Whether the tokens were the same in all rounds, and the ratios of both workers by round."""
    meter = Meter(reranker)
    same, ratios = True, []
    for number in range(asked.rounds + 1):  # the first to warm up
        pairs = pairs_of(number, asked.pairs if number else 4 * asked.at_once)
        requests = requests_of(pairs, keys, tokenizer)
        sides = {}
        for side in ("direct", "annotate") if number % 2 else ("annotate", "direct"):
            direct_now = side == "direct"
            sides[side] = called_directly(pipes, requests) if direct_now else annotated(reranker, meter, pairs, folder)
        if not number:
            continue
        alone, ours = sides["direct"], sides["annotate"]
        same = same and sum(one.tokens for one in ours) == sum(one.tokens for one in alone)
        ratios.append([one.own_rate / statistics.mean(other.own_rate for other in alone) for one in ours])
        print(f"round {number}: {shown('directly', alone)}; {shown('annotate', ours)}", end="; ")
        print(f"ratios {ratios[-1][0]:.3f} and {ratios[-1][1]:.3f}", flush=True)
    return same, ratios


def shown(name: str, both: list[Spent]) -> str:
    """Tokens a second of both engines."""
    own, wall = [one.own_rate for one in both], [one.rate for one in both]
    return f"{name} {own[0]:,.0f} and {own[1]:,.0f} tokens/s (wall {wall[0]:,.0f} and {wall[1]:,.0f})"


if __name__ == "__main__":
    sys.exit(main())
