"""The training loop: tasks → rollouts → scores → update → sync. Independent of vLLM, DeepSpeed and Ray, which the roles use."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from r0 import sampling
from r0.actors.learner.group import LearnerLost
from r0.actors.rollout.group import RolloutsLost
from r0.errors import RunFailed, UserError, reason
from r0.process.faults import reached
from r0.process.objects import ObjectsLost
from r0.process.signals import Stopped, StopRequest
from r0.profiler import Profiler
from r0.records import ScoredGroup
from r0.runs.bad_batches import BadBatches
from r0.runs.checkpoint import Checkpoints
from r0.runs.metrics import rollout_metrics
from r0.runs.probes import probes
from r0.step_rollouts import StepRollouts


class Trainer:
    """An RL run of stage A or B; the stages differ in tasks, prompts, verdicts and rewards only.

    Args:
        rollouts: of each step, with the configuration, tasks, prompts, roles and record of the run.
        checkpoints: the checkpoints of the run.
        stop: a request to stop ends the run with a checkpoint; only what changes or saves weights is finished before.
    """

    def __init__(self, rollouts: StepRollouts, checkpoints: Checkpoints, stop: StopRequest):
        self.rollouts, self.checkpoints, self.stop = rollouts, checkpoints, stop
        self.config, self.prompter = rollouts.config, rollouts.prompter
        self.roles, self.recorder = rollouts.roles, rollouts.recorder
        self.bad_batches = BadBatches(self.config.on_nan, self.recorder)
        self.profiler = Profiler(self.config.profile, self.roles, self.recorder)
        evaluates = self.config.eval.every and self.config.samples
        self.heldout = rollouts.source.heldout(self.config.eval.tasks) if evaluates else []
        self._done = 0  # steps whose state the learner holds and the record has

    def train(self, steps: int) -> bool:
        """Train for ``steps`` updates, from the newest checkpoint if there is one. Returns whether all are done.

        A learner that loses a rank starts again from the newest checkpoint, and so does one that has lost rollouts, or the
        samples of the next step with the weights they need. The steps after it are repeated: they are pure functions of their
        number.

        Raises:
            RunFailed: workers failed too often; where the learner is whole, its state is saved.
        """
        while True:
            try:
                return self._run(steps)
            except (LearnerLost, RolloutsLost, ObjectsLost) as lost:
                if not isinstance(lost, LearnerLost):
                    self._rescue(save=False)
                self.recorder.say(f"{lost}; new learner ranks go on from the newest checkpoint")
                self.roles.restart(lost)

    def _run(self, steps: int) -> bool:
        resume = self.config.checkpoint.resume
        other = None if resume in ("auto", "never") else Path(resume).expanduser()
        self._done = self.checkpoints.restore(self.roles.learner, other)
        if self._done > steps:
            raise UserError(f"max_steps: the run has done {self._done} steps, more than {steps}; raise max_steps or epochs")
        self.rollouts.resume(self.checkpoints.ahead(self._done))
        self.recorder.resume(self._done)
        self.profiler.resume(self._done, steps)
        try:
            with self.stop.at_once():
                self.roles.connect()
                self.roles.sync(version=self._done)
                if not self._is_evaluated(self._done, steps):  # at the start, or where the run was stopped while it evaluated
                    self._evaluate(self._done)
        except Stopped:
            self.recorder.say(f"stopped before step {self._done + 1}; the same command goes on from here")
            return False
        try:
            for step in range(self._done, steps):
                metric = None
                self.profiler.begin(step + 1)
                try:
                    self._step(step, steps)
                    if not self._is_evaluated(step + 1, steps):
                        with self.stop.at_once():
                            metric = self._evaluate(step + 1)
                except Stopped:  # what was sampled or evaluated is left; the learner is as it was after step ``_done``
                    pass
                stopping = self.stop()
                if stopping:
                    what = "stopping: saving a checkpoint" if self._done else "stopped before step 1"
                    self.recorder.say(f"{what}; the same command goes on from here")
                with self.stop.saving():
                    self._checkpoint(self._done, steps, metric, stopping)
                    self.profiler.end(step + 1, stopping, whole=self._done == step + 1)
                if stopping:
                    return self._done == steps and self._is_evaluated(steps, steps)
            return True
        except (LearnerLost, RolloutsLost, ObjectsLost):
            raise
        except Exception as error:
            self._rescue(isinstance(error, RunFailed))
            raise

    def _is_evaluated(self, done: int, steps: int) -> bool:
        """Whether nothing is left to evaluate after step ``done``."""
        due = done == 0 or _due(done, self.config.eval.every, steps)
        return not (due and self.heldout) or self.recorder.evaluated(done)

    def _rescue(self, save: bool) -> None:
        """Before the run ends with an error: complete a checkpoint in progress, or ``save`` the last complete step."""
        try:
            if save and self._done:
                self.recorder.sync()
                self.checkpoints.save(self.roles.learner, self._done, ahead=self.rollouts.pending)
            self.checkpoints.publish(self.roles.learner, wait=True)
        except Exception as error:  # the error that ends the run is the one to raise
            self.recorder.say(f"the last step could not be saved: {reason(error)}")

    def _step(self, step: int, steps: int) -> None:
        """One of ``steps`` steps of training, from its prompts to the sync. With ``sync.max_staleness=1`` the next one is sampled
        while this one is learned.

        Raises:
            Stopped: the run is to stop, and no weight has changed yet.
        """
        clock, values, groups = self.recorder.clock, None, []
        try:
            with clock("total"), contextlib.ExitStack() as stack:
                reached("driver.step")
                with self.stop.at_once():
                    groups = self.rollouts.of(step)
                stack.enter_context(self.stop.saving())
                self.bad_batches.check_logprobs(step + 1, groups)
                stats = self._learn(groups, step, step + 1 if step + 1 < steps else None)
                self.bad_batches.check_update(step + 1, groups, stats["skipped_updates"], self.roles.learner.batch_fault)
                if "gap" in stats and self.config.samples:  # an update was made, on rollouts of the same weights
                    self._check_gap(step, stats["gap"])
                values = {**rollout_metrics(groups), **self.rollouts.staleness(step, groups), **stats}
                reached("driver.learned")
                with clock("sync"):
                    self.roles.sync(version=step + 1)
        finally:
            if values is not None:  # the update is complete even if the sync fails
                self.recorder.step(step + 1, values, groups)
                self._done = step + 1

    def _learn(self, rollouts: list[ScoredGroup], step: int, ahead: int | None) -> dict[str, float]:
        """Update on the rollouts of ``step`` while step ``ahead`` is sampled; returns the figures.

        Where the engines are lost before a weight has changed, the update is left, they get the weights once more, and both are
        done again.

        Raises:
            Stopped: the run is to stop, and no weight has changed.
            RolloutsLost: the engines are lost, and so are the weights they had.
        """
        groups, stats = sampling.train_groups(rollouts), dict[str, float]()
        while not stats:
            self._done = 0  # until the update is complete, the learner's state is not to be saved
            try:
                with self.rollouts.ahead(ahead, self.stop):
                    with self.recorder.clock("learn"):
                        stats = self.roles.learn(groups, step, lambda: self.stop() or self.rollouts.failed() is not None)
                    if not stats:
                        self._done = step
                        raise (None if self.stop() else self.rollouts.failed()) or Stopped(self.stop.exit_code)
            except RolloutsLost as lost:
                if stats:
                    raise
                self.recorder.say(f"{lost}; step {step + 1} is learned again")
                self.roles.rollout.restart({})
        return stats

    def _checkpoint(self, step: int, steps: int, metric: float | None, stopping: bool) -> None:
        """Save where one is due, or where the metric is the best so far. The last one is complete on return; others are written
        while training goes on."""
        best = self.checkpoints.best() if metric is not None else None
        improved = metric is not None and (best is None or metric > best)
        with self.recorder.clock("checkpoint"):
            if step and (stopping or improved or _due(step, self.config.checkpoint.every, steps)):
                self.recorder.sync()  # a checkpoint never outlives its record
                self.checkpoints.save(self.roles.learner, step, metric, self.rollouts.pending)
                reached("driver.checkpoint")
            self.checkpoints.publish(self.roles.learner, wait=stopping or step == steps)

    def _evaluate(self, step: int) -> float | None:
        """Held-out metrics, greedy and sampled, with the seeds of step 0 at every step so that only the weights differ. Returns
        the one named by ``checkpoint.best``, if it is a number.

        Raises:
            UserError: there is no such metric.
        """
        prompts = [self.prompter.prompt(task) for task in self.heldout]
        values: dict[str, float] = {}
        completions: dict[str, list[ScoredGroup]] = {}
        with self.recorder.clock("evaluate"):
            for mode, samples in (("greedy", 1), ("sampled", self.config.eval.samples)):
                if not samples:
                    continue
                groups = completions[mode] = self.rollouts.evaluated(self.heldout, prompts, samples, greedy=mode == "greedy")
                found = {**rollout_metrics(groups), **probes(groups)}
                values |= {f"heldout/{mode}/{name}": value for name, value in found.items()}
        self.recorder.evaluation(step, values, completions)
        best = self.config.checkpoint.best
        if best is not None and best not in values:
            raise UserError(f"checkpoint.best: there is no held-out metric {best}; there are: {', '.join(sorted(values))}")
        return values[best] if best and math.isfinite(values[best]) else None  # NaN: of no completion

    def _check_gap(self, step: int, gap: float) -> None:
        """Check that rollout and learner give the sampled tokens the same log-probabilities; otherwise their weights differ."""
        sync = self.config.sync
        if not gap <= sync.gap_fatal:  # NaN is not, either
            raise UserError(
                f"step {step + 1}: rollout and learner log-probabilities differ by {gap:.3f} nats in the mean, above "
                f"sync.gap_fatal={sync.gap_fatal:g}: the engines do not hold the learner's weights; the last checkpoint is good"
            )
        if gap > sync.gap_warn:
            self.recorder.say(f"step {step + 1}: log-probability gap {gap:.3f} nats is above sync.gap_warn={sync.gap_warn:g}")


def _due(step: int, every: int, last: int) -> bool:
    """Whether something done every ``every`` steps (0: only at the end) is due after ``step``."""
    return step == last or (every > 0 and step % every == 0)
