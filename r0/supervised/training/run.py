"""One training without RL, from a checked configuration to a finished run directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from r0.config import RankKeys
from r0.errors import UserError
from r0.process.signals import StopRequest
from r0.runs import CardFacts, Recorder, RunDirectory, RunState, flat, heldout_lines, write_model_card
from r0.runs.output_path import output_path
from r0.supervised.training import driver
from r0.supervised.training.job import Job, micro_batch


@dataclass(frozen=True)
class Data:
    """What is learned from: updates of an epoch, facts for the model card, and what a person should know of it."""

    steps_per_epoch: int
    facts: Mapping[str, str | int | float]
    summary: str


@dataclass(frozen=True)
class TrainingResult:
    """Held-out figures before and after, by name, and more facts for the model card."""

    before: Mapping[str, float]
    after: Mapping[str, float]
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


def check_ranks(config: RankKeys) -> None:
    """Refuse ranks that cannot share a batch, and several of them in one process.

    Raises:
        UserError: with the remedy.
    """
    micro_batch(config)
    if config.ray.inline and config.ranks > 1:
        raise UserError("ray.inline: runs one rank; set ranks=1")


def learn(job: Job, directory: RunDirectory, recorder: Recorder, stop: StopRequest) -> TrainingResult:
    """Run the ranks. What they measured before the first step is in the run's record."""
    figures = driver.train(job, directory, recorder, stop)
    first = next((line for line in heldout_lines(directory.metrics_file) if line["step"] == 0), {})
    return TrainingResult({name: value for name, value in first.items() if name.startswith("heldout/")}, figures)


def run(
    command: str,
    config: RankKeys,
    folder: Path,
    rank: str,
    prepare: Callable[[Path], Data],
    learn: Callable[[Job, RunDirectory, Recorder, StopRequest], TrainingResult] = learn,
    job_config: RankKeys | None = None,
) -> Path:
    """Train, or resume; returns the run directory, with the final model in ``model/`` and, after LoRA, its adapter alone in
    ``adapter/``.

    Args:
        command: whose run it is.
        config: as it was given.
        folder: of the model to start from.
        rank: what each rank runs, as in ``Job``.
        prepare: makes the data ready in the run directory.
        learn: learns and measures.
        job_config: the configuration for the ranks, where it is not ``config``.

    Raises:
        UserError: what is wrong with the output; what the driver or a rank finds.
        driver.Stopped: a signal asked the run to stop.
    """
    output = output_path(command, config)
    with RunDirectory.open(output, command, config, fresh=config.fresh) as directory, StopRequest() as stop:
        if directory.state == RunState.FINISHED:
            print(f"{directory.path}: finished before; the model is in its folder model/ (fresh=true starts over)")
            return directory.path
        data = prepare(directory.path)
        print(data.summary)
        steps = config.steps(data.steps_per_epoch)
        job = Job(_absolute(job_config or config), str(folder), str(directory.path), steps, data.steps_per_epoch, rank)
        with Recorder(directory, config.tracking, steps, config=flat(config)) as recorder:
            learned = learn(job, directory, recorder, stop)
            facts = CardFacts(command, steps, {**data.facts, **learned.facts}, learned.before, learned.after)
            write_model_card(directory.path / "model", config, facts)
            directory.finish(steps, learned.after)
            recorder.say(f"done: {steps} steps; the model is in {directory.path / 'model'}")
    return directory.path


def _absolute(config: RankKeys) -> RankKeys:
    """The configuration with absolute paths of data: Ray's workers run in folders of their own. A split's name stays one."""
    named = {name: getattr(config, name, None) for name in ("data", "run", "qrels") if name in type(config).model_fields}
    there = {name: path for name, path in named.items() if path and path != "builtin"}
    found = {name: Path(path) for name, path in there.items() if Path(path).is_file() or (name == "data" and Path(path).is_dir())}
    return config.model_copy(update={name: str(path.absolute()) for name, path in found.items()})
