"""What the driver keeps of a step does not grow with the number of tokens."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from r0.actors.reward.group import SampledGroup
from r0.config import StageAConfig
from r0.data.source import open_source
from r0.process.signals import StopRequest
from r0.records import Finish, Prompt, Sampled, Score, ScoredGroup, Verdict
from r0.runs import Recorder, RunDirectory
from r0.runs.checkpoint import Checkpoints
from r0.step_rollouts import StepRollouts
from r0.storage.manifest import entry
from r0.storage.rollout_lines import read_rollouts
from r0.trainer import Trainer

PROMPTS, SAMPLES, STEPS, TOKENS = 16, 4, 2, 600
BYTES = 88  # of a token and its log-probability as Python objects, twice: in arrays that become tuples


class Elsewhere:
    """Completions of another process: whoever asks gets them anew."""

    def __init__(self, seed: int, tokens: int):
        self.seed, self.tokens = seed, tokens

    def sampled(self) -> list[Sampled]:
        places = range(1000 * self.seed + 1000, 1000 * self.seed + 1000 + self.tokens)
        return [Sampled(tuple(places), tuple(-1 / place for place in places), Finish.LENGTH, 0) for _ in range(SAMPLES)]


class Workers:
    """Engines, rewards and a learner that hold no tokens in this process."""

    def __init__(self, tokens: int):
        self.tokens = tokens
        self.version = 0
        self.rollout = SimpleNamespace(stream=self.stream)
        self.reward = SimpleNamespace(batch=lambda: Batch(self))
        self.learner = SimpleNamespace(save=self.save, saved_files=self.saved_files, batch_fault=None)

    def connect(self) -> None:
        pass

    def sync(self, version: int) -> None:
        self.version = version

    def stream(self, groups, temperature, max_new_tokens, greedy=False, leave=None) -> Iterator[tuple[int, Elsewhere]]:
        return ((place, Elsewhere(place, self.tokens)) for place in range(len(groups)))

    def learn(self, groups, step, leave) -> dict[str, float]:
        return {"skipped_updates": 0.0, "tokens_learned": float(sum(sum(group.lengths) for group in groups))}

    def save(self, directory: str) -> None:
        self.file = Path(directory) / "weights"
        self.file.touch()

    def saved_files(self, wait: bool):
        return {"weights": entry(self.file)}


class Batch:
    """Scores that need no tokens."""

    def __init__(self, workers: Workers):
        self.workers = workers
        self.groups: list[SampledGroup] = []
        self.add = self.groups.append

    def finish(self) -> list[ScoredGroup]:
        return [self.scored(group) for group in self.groups]

    def scored(self, group: SampledGroup) -> ScoredGroup:
        version, verdict = self.workers.version, Verdict("yes", 3, True)
        scores = tuple(Score(self.workers.tokens, Finish.LENGTH, version, verdict, {"x": 1.0}, 1.0) for _ in range(group.size))
        return ScoredGroup(group.task, group.group, group.prompt, scores, group.completions, ("text",) * group.size)


def peak(folder: Path, tokens: int) -> int:
    """Bytes that a run needs at most: it samples ahead, logs every step, and has every step in a checkpoint."""
    values = {
        "algo": "grpo", "batch_size": PROMPTS, "builtin_rows": 80, "max_steps": STEPS, "eval": {"every": 0},
        "checkpoint": {"every": 1}, "grpo": {"num_generations": SAMPLES}, "sync": {"max_staleness": 1},
    }  # fmt: skip
    config = StageAConfig.model_validate(values)
    prompter = SimpleNamespace(prompt=lambda task: Prompt((1, task.task_id)))
    with (
        RunDirectory.open(folder, "stage_a", config) as run,
        StopRequest() as stop,
        Recorder(run, config.tracking, STEPS) as recorder,
    ):
        rollouts = StepRollouts(config, open_source(config, config.seed), prompter, Workers(tokens), recorder)
        trainer = Trainer(rollouts, Checkpoints(folder, 9, recorder.say), stop)
        tracemalloc.start()
        try:
            assert trainer.train(STEPS)
            recorder.sync()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_the_drivers_memory_is_that_of_two_groups_whatever_the_batch(tmp_path):
    """Two, because the log of one step and the checkpoint of the next are written at the same time."""
    peak(tmp_path / "first", 1)  # what is imported and cached
    few, many = peak(tmp_path / "few", 10), peak(tmp_path / "many", TOKENS)
    group = SAMPLES * TOKENS * BYTES
    assert many - few < 3 * group < PROMPTS * group / 4
    logged = read_rollouts(tmp_path / "many" / "rollouts" / "step-000002.jsonl.gz")
    assert {len(one.scored.rollout.sampled.token_ids) for one in logged} == {TOKENS}
