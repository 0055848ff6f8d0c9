"""A run without a learner (``rollouts_only``): the rollouts of every step, sampled by the starting model."""

from __future__ import annotations

from itertools import count, takewhile

from r0.errors import UserError
from r0.process.signals import Stopped, StopRequest
from r0.profiler import Profiler
from r0.runs import Recorder, read_record
from r0.runs.bad_batches import BadBatches
from r0.runs.metrics import rollout_metrics
from r0.step_rollouts import StepRollouts


class Sampler:
    """Samples, judges and stores the rollouts of steps. Each depends on its number only, so there are no checkpoints.

    Args:
        rollouts: of each step.
        recorder: the run's record, which stores the rollouts of every step.
        stop: a request to stop leaves the step that is sampled.
    """

    def __init__(self, rollouts: StepRollouts, recorder: Recorder, stop: StopRequest):
        self.rollouts, self.recorder, self.stop = rollouts, recorder, stop
        self.bad_batches = BadBatches(rollouts.config.on_nan, recorder)
        self.profiler = Profiler(rollouts.config.profile, rollouts.roles, recorder)

    def sample(self, steps: int) -> bool:
        """Sample ``steps`` steps, from the first that is not recorded. Returns whether all are done.

        Raises:
            UserError: more are stored.
        """
        done = self._recorded()
        if done > steps:
            raise UserError(f"max_steps: the run has done {done} steps, more than {steps}; raise max_steps or epochs")
        self.recorder.resume(done)
        self.profiler.resume(done, steps)
        for step in range(done, steps):
            self.profiler.begin(step + 1)
            try:
                with self.recorder.clock("total"), self.stop.at_once():
                    groups = self.rollouts.of(step)
            except Stopped:
                self.profiler.end(step + 1, stopping=True, whole=False)
                self.recorder.say(f"stopped before step {step + 1}; the same command goes on from here")
                return False
            self.bad_batches.check_logprobs(step + 1, groups)
            self.recorder.step(step + 1, rollout_metrics(groups), groups)
            self.profiler.end(step + 1)
        self.recorder.sync()
        return True

    def _recorded(self) -> int:
        """The number of steps whose metrics and rollouts are stored."""
        stored = self.recorder.rollouts.files().keys() & {line["step"] for line in read_record(self.recorder.metrics.path)}
        return sum(1 for _ in takewhile(stored.__contains__, count(1)))
