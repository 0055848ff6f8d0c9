"""What every stage of reinforcement learning does: from a configuration to a finished run directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from r0.actors.cluster import start_ray
from r0.actors.learner.start_model import check_start_model
from r0.actors.memory.lookup import look_up_folder
from r0.actors.placement import Bundle, check_nodes
from r0.commands.memory import check_fits
from r0.config import RLConfig
from r0.config.types import step_range
from r0.data.formats import check_source
from r0.data.source import TaskSource, open_source
from r0.errors import UserError
from r0.process.gpus import local_gpus
from r0.process.signals import StopRequest
from r0.rewards import check_reward
from r0.runs import CardFacts, Recorder, RunDirectory, RunState, flat, heldout_lines, write_model_card
from r0.runs.checkpoint import Checkpoints, sound_checkpoint
from r0.runs.output_path import look_at
from r0.runs.prompt_date import with_date
from r0.runs.recorded import RecordedRollouts
from r0.storage.models import model_folder
from r0.storage.positions import positions
from r0.text.prompt_file import save_prompt
from r0.text.prompts import Prompter
from r0.text.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from r0.step_rollouts import StepRollouts

logger = logging.getLogger(__name__)


def train(command: str, config: RLConfig, output: Path, start: Callable[[RunDirectory], Path] | None = None) -> int:
    """Run RL in the directory ``output``. Returns 0 if it is done, 128 + signal if it was stopped and saved.

    ``start`` creates the starting model if it is not ``config.model`` itself (the demo's warm start).

    Raises:
        UserError: invalid input that can be detected before a model loads.
    """
    check_reward(config.reward)
    check_source(config)
    folder = model_folder(config.model)
    check_model(config, folder)
    config = with_date(command, config, folder)
    state = RunDirectory.look(output, command, config, fresh=config.fresh)
    _check_resume(config.checkpoint.resume, output, state)
    prompter = source = recorded = None
    if state != RunState.FINISHED:
        prompter = _prompter(config, folder)
        source = open_source(config, config.seed)
        planned = steps = config.steps(source.steps_per_epoch(config.batch_size))
        if recorded := RecordedRollouts.open(config, output, prompter.tokenizer.decode):
            steps = recorded.steps(config.max_steps)
        _check_profile(config.profile, steps)
        if config.checkpoint.best and not (config.eval.every and source.heldout(1)):
            raise UserError("checkpoint.best: nothing is evaluated; set eval.every and heldout_share, or leave it out")
        if config.ray.address in (None, "local") and "RAY_ADDRESS" not in os.environ:  # else the cards are the cluster's
            _check_memory(config, folder)
    with RunDirectory.open(output, command, config, fresh=config.fresh) as directory, StopRequest() as stop:
        if prompter is None or source is None:
            finished = directory.finished()
            steps = finished.steps if finished else 0
            result = "the model is in its folder model/" if config.learns else "the rollouts are in its folder rollouts/"
            print(f"{directory.path}: finished after {steps} steps; {result} (fresh=true starts over)")
            return 0
        fewer = recorded.note(config.max_steps) if recorded else ""
        print("\n".join(filter(None, (source.summary(), prompter.template_note, _half(config), fewer))))
        with stop.at_once():
            need = [] if config.ray.inline else start_ray(config)
            stop.install()  # Ray installs its own handlers
        if start and not stop():
            folder = start(directory)
            prompter = _prompter(config, folder)
        if stop():
            print("stopped before a step; the same command goes on from here")
            return stop.exit_code
        return _run(Run(command, config, directory, folder, steps, planned, source, prompter, stop, recorded), need)


@dataclass(frozen=True)
class Run:
    """A run before training: ``folder`` holds the starting model, ``steps`` is the number of updates (or of sampled steps),
    ``planned`` that of the learning rate's schedule: more, where a run that ended early is learned from."""

    command: str
    config: RLConfig
    directory: RunDirectory
    folder: Path
    steps: int
    planned: int
    source: TaskSource
    prompter: Prompter
    stop: StopRequest
    recorded: RecordedRollouts | None


def _prompter(config: RLConfig, folder: Path) -> Prompter:
    """The prompts of the model in ``folder``.

    Raises:
        UserError: its tokenizer or its template cannot be used, or the template lets the model write no thought.
    """
    prompter = Prompter.of(config, open_tokenizer(folder, pads=True), folder=folder)
    prompter.template.check_thinks()
    return prompter


def _half(config: RLConfig) -> str:
    """What a run of one half does not do; empty for a whole run."""
    if not config.samples:
        return (
            f"learning from the rollouts of {config.rollouts}: nothing is sampled, evaluated or sent, and the gap to their "
            "log-probabilities is not checked, since another learner may have another policy"
        )
    return "" if config.learns else "sampling with the starting model: nothing is learned or evaluated"


def _run(run: Run, need: Sequence[Bundle]) -> int:
    """Start the roles and train, or sample, with them. Returns the exit code."""
    from transformers.utils import logging as transformers_logging

    from r0.actors import roles
    from r0.step_rollouts import StepRollouts

    transformers_logging.disable_progress_bar()
    config, stop = run.config, run.stop
    with stop.at_once():
        if config.ray.inline:
            team = roles.inline(config, str(run.folder), run.planned)
        else:
            check_nodes(run.folder, run.directory.path)
            team = roles.on_ray(config, str(run.folder), run.planned, need)
    complete = False
    decode, pack = run.prompter.tokenizer.decode, team.reward.pack
    recorder = Recorder(run.directory, config.tracking, run.steps, flat(config), decode, keep=config.samples, pack=pack)
    rollouts = StepRollouts(config, run.source, run.prompter, team, recorder, run.recorded)
    try:
        complete = (_train if config.learns else _sample)(run, rollouts)
    finally:
        recorder.close()
        team.close(gently=complete)
    return 0 if complete else stop.exit_code


def _train(run: Run, rollouts: StepRollouts) -> bool:
    """Train and save the model. Returns whether it is done."""
    from r0.trainer import Trainer

    config, directory, prompter, recorder = run.config, run.directory, run.prompter, rollouts.recorder
    checkpoints = Checkpoints(directory.path, config.checkpoint.keep, recorder.say, config.checkpoint.best)
    if not Trainer(rollouts, checkpoints, run.stop).train(run.steps):
        return False
    with run.stop.saving():
        model = directory.folder("model")
        rollouts.roles.learner.save_model(str(model))
        facts = _facts(run.command, run.steps, run.source, directory)
        save_prompt(model, config.form, prompter.system_prompt, prompter.template.variables)
        write_model_card(model, config, facts)
        directory.finish(run.steps, facts.after)
    recorder.say(f"done: {run.steps} steps; the model is in {model}\n{look_at(directory.path)}")
    return True


def _sample(run: Run, rollouts: StepRollouts) -> bool:
    """Sample and store rollouts. Returns whether it is done."""
    from r0.sampler import Sampler

    recorder = rollouts.recorder
    if not Sampler(rollouts, recorder, run.stop).sample(run.steps):
        return False
    run.directory.finish(run.steps)
    recorder.say(f"done: {run.steps} steps; the rollouts are in {run.directory.path / 'rollouts'}\n{look_at(run.directory.path)}")
    return True


def _check_profile(profile: bool | str, steps: int) -> None:
    """Refuse to profile steps that the run does not have.

    Raises:
        UserError: with the remedy.
    """
    if isinstance(profile, str) and step_range(profile)[1] > steps:
        raise UserError(f"profile: the run has {steps} steps, fewer than profile={profile}; name steps up to {steps}, or true")


def _check_resume(resume: str, output: Path, state: RunState) -> None:
    """Refuse what ``checkpoint.resume`` excludes, and a folder from which nothing can be resumed.

    Raises:
        UserError: with the remedy.
    """
    if resume == "never" and state != RunState.NEW:
        raise UserError(f"checkpoint.resume: never, but {output} holds a run; auto goes on from it, fresh=true starts over")
    if resume not in ("auto", "never") and state == RunState.NEW:
        sound_checkpoint(Path(resume).expanduser())


def _check_memory(config: RLConfig, folder: Path) -> None:
    """Warn of cards that may be too small.

    Raises:
        UserError: they are too small for certain.
    """
    known = look_up_folder(folder) if local_gpus() else None
    if known is not None and (warning := check_fits(config, *known)):
        logger.warning(warning)


def check_model(config: RLConfig, folder: Path) -> None:
    """Refuse a model that RL cannot start from.

    Raises:
        UserError: with what is wrong and the remedy.
    """
    check_lengths(config, folder)
    check_start_model(folder, config.learner.lora, "learner.lora")


def check_lengths(config: RLConfig, folder: Path) -> None:
    """Refuse budgets that the model's positions cannot hold.

    Raises:
        UserError: with the numbers and the remedy.
    """
    most = positions(folder)
    wanted = config.max_prompt_tokens + config.max_new_tokens
    if most is not None and wanted > most:
        room = most - config.max_new_tokens
        remedy = f"lower max_prompt_tokens to at most {room}" if room > 0 else "lower max_new_tokens"
        raise UserError(
            f"max_prompt_tokens={config.max_prompt_tokens} and max_new_tokens={config.max_new_tokens} are {wanted} tokens, "
            f"more than the {most} positions of {folder.name}; {remedy}"
        )


def _facts(command: str, steps: int, source: TaskSource, directory: RunDirectory) -> CardFacts:
    """Held-out figures before and after, from the run's own record."""
    figures = [{name: value for name, value in line.items() if name != "step"} for line in heldout_lines(directory.metrics_file)]
    before, after = (figures[0], figures[-1]) if figures else ({}, {})
    return CardFacts(command, steps, source.facts(), before, after)
