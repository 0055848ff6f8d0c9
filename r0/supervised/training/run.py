"""A supervised run, from a checked configuration to a finished run directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from r0.config import RankKeys
from r0.errors import UserError
from r0.process.signals import StopRequest
from r0.runs import CardFacts, Recorder, RunDirectory, RunState, flat, heldout_lines, write_model_card
from r0.runs.output_path import look_at, output_path
from r0.runs.resolved import absolute
from r0.supervised.training import driver
from r0.supervised.training.job import Job, micro_batch

ORDER, LOSS = "heldout/ndcg@10", "heldout/loss"
WORSE = 0.02  # a fall of nDCG@10, or this share of the loss, that is said

log = logging.getLogger("r0")


@dataclass(frozen=True)
class Data:
    """The training data: updates per epoch, facts for the model card, and a summary to print."""

    steps_per_epoch: int
    facts: Mapping[str, str | int | float]
    summary: str


@dataclass(frozen=True)
class TrainingResult:
    """Held-out metrics before and after training, by name, and additional facts for the model card."""

    before: Mapping[str, float]
    after: Mapping[str, float]
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


def check_ranks(config: RankKeys) -> None:
    """Check that the ranks can divide a batch evenly, and that there is only one with ``ray.inline=true``.

    Raises:
        UserError: they cannot, or there are several.
    """
    micro_batch(config)
    if config.ray.inline and config.ranks > 1:
        raise UserError("ray.inline: runs one rank; set ranks=1")


def learn(job: Job, directory: RunDirectory, recorder: Recorder, stop: StopRequest) -> TrainingResult:
    """Run the ranks. The metrics before the first step are read from the run's record."""
    figures = driver.train(job, directory, recorder, stop)
    first = next((line for line in heldout_lines(directory.metrics_file) if line["step"] == 0), {})
    return TrainingResult({name: value for name, value in first.items() if name.startswith("heldout/")}, figures)


def worse(before: Mapping[str, float], after: Mapping[str, float]) -> str | None:
    """What to tell the user if training made the model worse on the held-out data, by nDCG@10 or, without it, by the loss."""
    name = next((one for one in (ORDER, LOSS) if one in before and one in after), None)
    if name is None:
        return None
    fell = before[name] - after[name] > WORSE if name == ORDER else after[name] - before[name] > WORSE * abs(before[name])
    if not fell:
        return None
    return (
        f"{name} was {before[name]:.3f} before training and is {after[name]:.3f} now: the model became worse on the held-out "
        "data; lower learning_rate, or raise warmup_ratio or batch_size"
    )


def run(
    command: str,
    config: RankKeys,
    folder: Path,
    rank: str,
    read: Callable[[Path | None], Data],
    learn: Callable[[Job, RunDirectory, Recorder, StopRequest], TrainingResult] = learn,
    write: Callable[[Path], None] | None = None,
    job_config: RankKeys | None = None,
) -> Path:
    """Train, or resume; returns the run directory, with the final model in ``model/`` and, with LoRA, the adapter alone in
    ``adapter/``.

    Args:
        command: name of the command.
        config: the configuration of the run.
        folder: of the starting model.
        rank: the function that each rank runs, as in ``Job``.
        read: reads and checks the data before the run directory is created; its argument is the directory of a resumed run.
        learn: trains and evaluates.
        write: writes the data into the run directory.
        job_config: the configuration of the ranks, if it differs from ``config``.

    Raises:
        UserError: the output directory cannot be used; the driver or a rank found an error.
        driver.Stopped: a signal asked the run to stop.
    """
    output = output_path(command, config)
    state = RunDirectory.look(output, command, config, fresh=config.fresh)
    if state == RunState.FINISHED:
        print(f"{output}: finished before; the model is in its folder model/ (fresh=true starts over)")
        return output
    data = read(output if state == RunState.RESUMABLE else None)
    with RunDirectory.open(output, command, config, fresh=config.fresh) as directory, StopRequest() as stop:
        if write is not None:
            write(directory.path)
        print(data.summary)
        steps = config.steps(data.steps_per_epoch)
        job = Job(absolute(job_config or config), str(folder), str(directory.path), steps, data.steps_per_epoch, rank)
        with Recorder(directory, config.tracking, steps, config=flat(config)) as recorder:
            learned = learn(job, directory, recorder, stop)
            if text := worse(learned.before, learned.after):
                log.warning(text)
            facts = CardFacts(command, steps, {**data.facts, **learned.facts}, learned.before, learned.after)
            write_model_card(directory.path / "model", config, facts)
            directory.finish(steps, learned.after)
            recorder.say(f"done: {steps} steps; the model is in {directory.path / 'model'}\n{look_at(directory.path)}")
    return directory.path
