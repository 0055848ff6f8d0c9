"""The scored rollouts of each step: sampled when it begins, or while the step before is learned, or read from another run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from r0 import sampling
from r0.actors.learner.group import LearnerLost
from r0.actors.pool import CallLeft
from r0.actors.roles import Roles
from r0.config import GRPOSection, RLConfig
from r0.data.source import TaskSource
from r0.records import Scored, Task
from r0.runs import Recorder
from r0.runs.record import Clock
from r0.runs.recorded import RecordedRollouts
from r0.text.prompts import Prompter

LOOK_S = 0.5  # seconds between looks at whether the run is to stop


class StepRollouts:
    """Samples and scores the prompts of a step.

    With ``sync.max_staleness=1`` they are sampled one step ahead, in a thread of the driver: the engines have the weights of the
    step that is being learned, and no weights are sent meanwhile.

    Args:
        config, source, prompter, roles: of the run.
        recorder: its clock takes the seconds, with those of the step that learns from the rollouts.
        recorded: the rollouts of another run, which are read instead.

    Attributes:
        pending: rollouts that are sampled and not yet learned from, all of one step; a checkpoint holds them.
    """

    def __init__(
        self,
        config: RLConfig,
        source: TaskSource,
        prompter: Prompter,
        roles: Roles,
        recorder: Recorder,
        recorded: RecordedRollouts | None = None,
    ):
        self.config, self.source, self.prompter, self.roles, self.recorder = config, source, prompter, roles, recorder
        self.recorded = recorded
        self.pending: list[Scored] = []
        self._ahead: _Sampling | None = None
        self._seconds: dict[str, float] = {}  # of ``pending``

    def resume(self, pending: list[Scored]) -> None:
        """Go on with the rollouts in a checkpoint; none: its next step is sampled when it begins."""
        self.pending, self._seconds = pending, {}

    def of(self, step: int) -> list[Scored]:
        """The rollouts of ``step``: those that were sampled ahead, or new ones."""
        if not self.pending:
            return self._rollouts(step, self.recorder.clock)
        for name, seconds in self._seconds.items():
            self.recorder.clock.add(name, seconds)
        self._seconds = {}
        return self.pending

    @contextlib.contextmanager
    def ahead(self, step: int | None, stop: Callable[[], bool]) -> Iterator[None]:
        """Sample ``step`` while the block learns the step before; then its rollouts are ``pending``. With None, with
        ``sync.max_staleness=0``, or with recorded rollouts, nothing is.

        If the block raises, ``pending`` stays as it was, and the sampling is left. Only where the run goes on with new learner
        ranks, it is waited for: the engines could not be synced while they work.

        Raises:
            RolloutsLost, UserError, …: what ended the sampling.
        """
        self._ahead = None
        if step is None or not self.config.sync.max_staleness or self.recorded is not None:
            yield
            self.pending = []
            return
        thread = self._ahead = _Sampling(lambda clock, leave: self._rollouts(step, clock, leave))
        try:
            yield
            self._wait(thread, step, stop)
        except LearnerLost:
            while thread.is_alive() and not stop():
                thread.join(LOOK_S)
            raise
        finally:
            thread.left = True  # it makes no difference to one that has ended
        self.pending, self._seconds = thread.result(), thread.clock.take()

    def _wait(self, thread: _Sampling, step: int, stop: Callable[[], bool]) -> None:
        """Wait for the sampling of ``step``."""
        said = False
        with self.recorder.clock("wait"):
            while thread.is_alive():
                if stop() and not said:
                    self.recorder.say(f"step {step + 1} is sampled to its end first, since the checkpoint needs it")
                    said = True
                thread.join(LOOK_S)

    def failed(self) -> BaseException | None:
        """What has ended the sampling of ``ahead``, if something has; None while it goes on."""
        return self._ahead.error if self._ahead is not None else None

    def staleness(self, step: int, scored: Sequence[Scored]) -> dict[str, float]:
        """A metric of runs that sample ahead: by how many weight versions the rollouts that ``step`` learns from lag behind, in
        the mean."""
        if not self.config.sync.max_staleness or not scored:
            return {}
        return {"staleness": fmean(step - one.rollout.sampled.version for one in scored)}

    def _rollouts(self, step: int, clock: Clock, leave: Callable[[], bool] | None = None) -> list[Scored]:
        """Scored completions of the step's prompts. Groups whose rewards are all equal are replaced, up to ``refill_rounds``
        times."""
        if self.recorded is not None:
            with clock("read"):
                return self.recorded.of(step)
        config = self.config
        scored = self._sample(self.source.batch(step, config.batch_size), step, 0, clock, leave)
        rounds = config.section.refill_rounds if isinstance(config.section, GRPOSection) else 0
        for refill_round in range(1, rounds + 1):
            spread = sampling.spread_groups(scored)
            empty = [group for group in range(config.batch_size) if group not in spread]
            if not empty:
                break
            tasks = self.source.batch(step, config.batch_size, refill_round)[: len(empty)]
            fresh = self._sample(tasks, step, refill_round, clock, leave)
            homes = [empty[one.rollout.group] for one in fresh]
            fresh = [replace(one, rollout=replace(one.rollout, group=home)) for one, home in zip(fresh, homes, strict=True)]
            useful = sampling.spread_groups(fresh)
            scored = [one for one in scored if one.rollout.group not in useful]
            scored += [one for one in fresh if one.rollout.group in useful]
        return sorted(scored, key=lambda one: (one.rollout.group, one.rollout.sample))

    def _sample(
        self, tasks: Sequence[Task], step: int, refill_round: int, clock: Clock, leave: Callable[[], bool] | None
    ) -> list[Scored]:
        config = self.config
        prompts = [self.prompter.prompt(task) for task in tasks]
        samples = config.samples_per_prompt
        with clock("sample"):
            sampled = self.roles.rollout.sample(
                sampling.requests(tasks, prompts, samples, config.seed, step, refill_round),
                temperature=config.temperature,
                max_new_tokens=config.max_new_tokens,
                leave=leave,
            )
        if leave is not None and leave():
            raise CallLeft("the samples are not wanted any more")
        with clock("reward"):
            return self.roles.reward.score(sampling.rollouts(tasks, prompts, sampled, samples))


class _Sampling(threading.Thread):
    """Runs ``sample(clock, leave)`` from now on. A daemon: a process that ends does not wait for it."""

    def __init__(self, sample: Callable[[Clock, Callable[[], bool]], list[Scored]]):
        super().__init__(name="r0-ahead", daemon=True)
        self.clock, self.left = Clock(), False
        self._sample = sample
        self._scored: list[Scored] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """The thread's work."""
        try:
            self._scored = self._sample(self.clock, lambda: self.left)
        except BaseException as error:
            self.error = error

    def result(self) -> list[Scored]:
        """The rollouts, once the thread has ended.

        Raises:
            Exception: the one that ended it.
        """
        if self.error is not None:
            raise self.error
        return self._scored
