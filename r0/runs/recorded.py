"""The rollouts of another run, from which a run with ``rollouts=RUN`` learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path

from r0.config import GRPOSection, RLConfig
from r0.errors import UserError
from r0.records import Form, ListwiseTask, Scored
from r0.runs.claim import CONFIG
from r0.runs.resolved import read_flat
from r0.runs.rollout_log import RolloutLog, steps_text
from r0.storage.rollout_lines import LoggedRollout, read_rollouts

REMEDY = "sample it again"


@dataclass(frozen=True)
class RecordedRollouts:
    """The stored rollouts of a run, step by step; log-probabilities and rewards are stored with all their digits.

    Attributes:
        run: the run's directory.
        files: of the steps 1, 2, … without a gap.
        oldest: by how many weight versions a rollout may lag behind the learner. One that lags more counts as just that old:
            another learner's versions say nothing of its weights.
    """

    run: Path
    files: Mapping[int, Path]
    oldest: int

    @classmethod
    def open(cls, config: RLConfig, output: Path, decode: Callable[[Sequence[int]], str]) -> RecordedRollouts | None:
        """Look at the rollouts that ``config.rollouts`` names, and read those of the first step; None if it names none.

        Args:
            config: of the run that learns from them.
            output: its directory.
            decode: prompt ids to text, by the tokenizer of its model.

        Raises:
            UserError: there are none, steps are missing, or this configuration cannot learn from them.
        """
        if config.rollouts is None:
            return None
        run = Path(config.rollouts)
        if not run.is_dir():
            raise UserError(f"rollouts: there is no folder {run}; give a run directory, such as runs/stage_a-…")
        if run.resolve() == output.resolve():
            raise UserError(f"rollouts: {run} is this run's own output; choose another one with output=")
        stored = RolloutLog(run / "rollouts").files()
        files = {step: stored[step] for step in takewhile(stored.__contains__, count(1))}
        if not files:
            held = f"has the rollouts of {steps_text(list(stored))} only" if stored else "has stored no rollouts"
            raise UserError(f"rollouts: {run} {held}, and those of every step are needed; {_remedy(config, run)}")
        found = cls(run, files, config.sync.max_staleness)
        _check(config, run, list(read_rollouts(files[1], REMEDY)), decode)
        return found

    def steps(self, most: int) -> int:
        """The number of steps of a run with ``max_steps=most`` (0: as many as there are); at most those that are stored."""
        return min(most, len(self.files)) or len(self.files)

    def note(self, most: int) -> str:
        """A line that says so where fewer than ``max_steps=most`` are stored; else empty."""
        if most <= len(self.files):
            return ""
        held = steps_text(list(self.files))
        return f"{self.run} has the rollouts of {held}: this run ends there, on the schedule of max_steps={most}"

    def of(self, step: int) -> Iterator[Scored]:
        """The rollouts from which ``step`` (counted from 0) learns, in the order in which they were learned from.

        Raises:
            UserError: the file is damaged.
        """
        return (_not_older(one.scored, step - self.oldest) for one in read_rollouts(self.files[step + 1], REMEDY))


def _not_older(one: Scored, version: int) -> Scored:
    sampled = one.rollout.sampled
    if sampled.version >= version:
        return one
    return replace(one, rollout=replace(one.rollout, sampled=replace(sampled, version=version)))


def _remedy(config: RLConfig, run: Path) -> str:
    """What to do where the first steps are missing."""
    if read_flat(run / CONFIG, type(config)).get("checkpoint.resume") in (None, "auto", "never"):
        return f"{REMEDY} with tracking.rollouts_every=1"
    return "it began from another run's checkpoint; name a run that began with step 1"


def _check(config: RLConfig, run: Path, first: Sequence[LoggedRollout], decode: Callable[[Sequence[int]], str]) -> None:
    """Refuse rollouts from which this configuration cannot learn, judged by those of the first step.

    Raises:
        UserError: with the key and the remedy.
    """
    rollouts = [one.scored.rollout for one in first]
    forms = {task.form if isinstance(task := one.task, ListwiseTask) else Form.YES_NO for one in rollouts}
    if forms != {config.form}:
        held = ", ".join(sorted(forms))
        raise UserError(f"rollouts: {run} holds answers of the form {held}, not {config.form}; name another run")
    prompts = {one.group for one in rollouts}
    if len(prompts) != config.batch_size:
        remedy = f"set batch_size={len(prompts)}"
        raise UserError(f"batch_size: {run} has {len(prompts)} prompts a step, not {config.batch_size}; {remedy}")
    samples = len(rollouts) // len(prompts)
    if isinstance(config.section, GRPOSection) and samples != config.section.num_generations:
        raise UserError(
            f"grpo.num_generations: {run} has {samples} completion{'s' * (samples > 1)} per prompt, not "
            f"{config.section.num_generations}; " + (f"set grpo.num_generations={samples}" if samples > 1 else "use algo=ppo")
        )
    there = read_flat(run / CONFIG, type(config))
    truncated = there.get("grpo.truncated")
    if isinstance(config.section, GRPOSection) and truncated not in (None, config.section.truncated):
        remedy = f"set grpo.truncated={truncated}"
        raise UserError(f"grpo.truncated: the stored rewards and masks of {run} are those of {truncated}; {remedy}")
    temperature = there.get("temperature")
    if isinstance(temperature, float) and not math.isclose(temperature, config.temperature):
        remedy = f"set temperature={temperature:g}"
        raise UserError(f"temperature: {run} was sampled at {temperature:g}, not {config.temperature:g}; {remedy}")
    for one in first:
        if decode(one.scored.rollout.prompt.token_ids) != one.prompt_text:
            raise UserError(
                f"rollouts: {run} was sampled with another vocabulary than that of {config.model}; "
                "set model to the one that it was sampled with, or to one with the same tokenizer"
            )
