"""The driver of a large run: its share of a step and its memory, with engines, rewards and learner ranks that only wait.

    python benchmarks/scale.py [--sizes 4x1 16x4 64x16] [--tokens 64 1024] [--speed 4]

Ray, the driver (``Trainer`` and all it calls), the objects and their sizes are real. Workers have the latencies of H100 cards and
a model of 7 B parameters, and compute nothing: an engine samples ``ENGINE`` tokens a second, a rank learns from ``RANK`` (both
are assumptions). ``4x1`` is 4 engines and 1 rank. There are 16 prompts for each engine, and 16 completions of ``--tokens`` tokens
for each prompt. ``--speed`` shortens all waits: the driver has less time than in a real run.

Printed for each size: the seconds of a real step by the latencies; the driver's processor seconds in a step and their share of
the real step, without and with the rollouts stored (``tracking.rollouts_every``); and by how much the driver's resident memory
grew. Each worker is a process of about 80 MB.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil

from r0.records import Completions, Finish, Prompt, Score, Verdict

PROMPTS, SAMPLES = 16, 16  # of an engine; of a prompt
PROMPT_TOKENS = 512
ENGINE, RANK, SYNC_S, SCORE_S = 8000.0, 12000.0, 2.0, 0.0013  # tokens/s, tokens/s, seconds, seconds a completion
REWARDS = 8  # workers


class Engine:
    """Completes its share evenly over the time that it takes."""

    def __init__(self, tokens: int, speed: float, index: int):
        draw = random.Random(index)
        count = SAMPLES * tokens
        self.ids = array("i", (draw.randrange(150_000) for _ in range(count)))
        self.logprobs = array("f", (-draw.random() for _ in range(count)))
        self.tokens, self.speed, self.held = tokens, speed, 0

    def stream(self, groups, temperature, max_new_tokens, greedy=False) -> Iterator:
        """Group after group, with a wait before each."""
        for place in range(len(groups)):
            time.sleep(SAMPLES * self.tokens / ENGINE / self.speed)
            found = self.ids, self.logprobs, (self.tokens,) * SAMPLES, (Finish.LENGTH,) * SAMPLES, self.held, ((),) * SAMPLES
            yield Completions(*found)
            yield place, self.held

    def give(self, version: int) -> None:
        """New weights."""
        self.held = version

    def version(self) -> int:
        """Of the weights."""
        return self.held

    def received(self) -> str:
        """A digest of the weights."""
        return "weights"


class Judge:
    """Takes the time of a reward, and returns texts of four characters a token."""

    def __init__(self, tokens: int, speed: float):
        draw = random.Random(0)
        self.text = "".join(draw.choices("abcdefgh ", k=4 * tokens))
        self.speed = speed

    def ping(self) -> bool:
        """Whether the worker is ready."""
        return True

    def score(self, task, prompt, completions: Completions, samples=None):
        """Scores of 0 and 1, and the texts."""
        time.sleep(SCORE_S * SAMPLES / self.speed)
        verdict = Verdict("yes", 3, True)
        totals = [float(i % 2) for i in range(SAMPLES)]
        sizes = zip(completions.lengths, completions.finish, totals, strict=True)
        scores = [Score(tokens, finish, completions.version, verdict, {"x": total}, total) for tokens, finish, total in sizes]
        return scores, (self.text,) * SAMPLES

    def packed(self, step: int, group, prompt_text: str) -> tuple[int, bytes]:
        """What is stored, really made."""
        from r0.storage.rollout_lines import packed

        content = packed(step, group, prompt_text)
        return len(content), content


class Rank:
    """Reads its groups, and takes the time of an update."""

    def __init__(self, speed: float, engines: list):
        self.speed, self.engines = speed, engines

    def update(self, groups, version, schedule):
        """Fetch the groups and wait."""
        from r0.process.objects import fetch

        fetch([group.completions for group in groups])
        time.sleep(sum(sum(group.lengths) for group in groups) / RANK / self.speed)
        return {"skipped_updates": 0.0, "loss": 0.0}

    def sync(self, version: int) -> float:
        """Wait, and count the engines' version up."""
        import ray

        time.sleep(SYNC_S / self.speed)
        ray.get([engine.give.remote(version) for engine in self.engines])
        return SYNC_S

    def connect(self, backend, workers) -> None:
        """The engines that get the weights."""
        self.engines = workers

    def sent(self) -> str:
        """A digest of the weights."""
        return "weights"

    def node(self) -> str:
        """An answer."""
        return "node"


class Watch(threading.Thread):
    """The largest resident memory of this process, in MB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.most = psutil.Process().memory_info().rss / 1e6
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        """The thread's work."""
        while not self.ended.wait(0.05):
            self.most = max(self.most, psutil.Process().memory_info().rss / 1e6)


def measure(engines: int, ranks: int, tokens: int, speed: float, steps: int = 3) -> None:
    """Run three steps or more, of which the third and every third after it is stored, and print a line."""
    import ray

    from r0.actors.learner.group import LearnerGroup
    from r0.actors.pool import Pool
    from r0.actors.restarts import Restarts
    from r0.actors.reward.group import RewardGroup
    from r0.actors.roles import Roles
    from r0.actors.rollout.group import RolloutGroup
    from r0.config import StageAConfig
    from r0.data.source import open_source
    from r0.process.signals import StopRequest
    from r0.runs import Recorder, RunDirectory
    from r0.runs.checkpoint import Checkpoints
    from r0.step_rollouts import StepRollouts
    from r0.trainer import Trainer

    prompts = PROMPTS * engines
    values = {
        "algo": "grpo", "batch_size": prompts, "builtin_rows": 8 * prompts, "max_steps": steps, "eval": {"every": 0},
        "max_new_tokens": tokens, "checkpoint": {"every": steps + 1}, "grpo": {"num_generations": SAMPLES, "num_mini_batches": 1},
        "tracking": {"rollouts_every": 3},
    }  # fmt: skip
    config = StageAConfig.model_validate(values)

    def pool(role: str, cls: type, size: int, *arguments) -> Pool:
        actor = ray.remote(cls).options(num_cpus=0)
        return Pool(role, lambda index: actor.remote(*arguments, *((index,) if cls is Engine else ())), size)

    rollout, reward = pool("rollout", Engine, engines, tokens, speed), pool("reward", Judge, REWARDS, tokens, speed)
    learner = pool("learner", Rank, ranks, speed, [])
    restarts = Restarts(0)
    team = Roles(
        config, SimpleNamespace(sleep=False, transfer="none"), RolloutGroup(rollout, 3600.0, 3600.0, restarts),
        RewardGroup(reward, config.reward, 3600.0), LearnerGroup(learner, config), (rollout, reward, learner), restarts,
    )  # fmt: skip
    rollout.all("version", deadline_s=3600.0)
    learner.all("node", deadline_s=3600.0)
    draw = random.Random(1)
    prompter = SimpleNamespace(prompt=lambda task: Prompt(tuple(draw.randrange(150_000) for _ in range(PROMPT_TOKENS))))
    spent: list[float] = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        StopRequest() as stop,
        RunDirectory.open(Path(scratch), "stage_a", config) as run,
        Recorder(run, config.tracking, steps, pack=team.reward.pack) as recorder,
    ):
        learn, checkpoints = team.learner, Checkpoints(Path(scratch), 1, recorder.say)
        learn.save, learn.saved_files = (lambda folder: None), (lambda wait: {})  # type: ignore[method-assign]
        trainer = Trainer(StepRollouts(config, open_source(config, 1), prompter, team, recorder), checkpoints, stop)
        step = trainer._step

        def timed(number: int, steps: int) -> None:
            began = time.process_time()
            step(number, steps)
            recorder._wait_for_rollouts()
            spent.append(time.process_time() - began)

        trainer._step = timed  # type: ignore[method-assign]
        watch, began = Watch(), time.monotonic()
        trainer.train(steps)
        wall = (time.monotonic() - began) / steps
        watch.ended.set()
    team.close(gently=False)
    real = PROMPTS * SAMPLES * tokens / ENGINE + prompts * SAMPLES * tokens / ranks / RANK + SYNC_S
    shares = [seconds / (real + seconds) for seconds in spent[1:]]
    print(
        f"{engines:>3} engines {ranks:>3} ranks {prompts:>5} × {SAMPLES} × {tokens:>5}  step {real:7.1f} s (here {wall:6.1f})  "
        f"driver {spent[1]:5.2f} s {100 * shares[0]:4.1f} %  stored {spent[2]:6.2f} s {100 * shares[1]:4.1f} %  "
        f"memory {watch.before:5.0f} + {watch.most - watch.before:4.0f} MB",
        flush=True,
    )


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["4x1", "16x4", "64x16"], metavar="ENGINESxRANKS")
    parser.add_argument("--tokens", nargs="+", type=int, default=[64, 1024])
    parser.add_argument("--speed", type=float, default=4.0)
    arguments = parser.parse_args()
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=3 * 2**30, logging_level="WARNING")
    for size in arguments.sizes:
        engines, ranks = map(int, size.split("x"))
        for tokens in arguments.tokens:
            measure(engines, ranks, tokens, arguments.speed)
    ray.shutdown()


if __name__ == "__main__":
    main()
