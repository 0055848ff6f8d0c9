"""The scored rollouts of each step: sampled when it begins, or while the step before is learned, or read from another run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from r0 import sampling
from r0.actors.calls import CallLeft
from r0.actors.learner.group import LearnerLost
from r0.actors.reward.group import SampledGroup
from r0.actors.roles import Roles
from r0.config import GRPOSection, RLConfig
from r0.data.source import TaskSource
from r0.process.objects import ObjectsLost
from r0.records import Prompt, SampleRequest, Scored, ScoredGroup, Task
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
        self.pending: list[ScoredGroup] = []
        self._ahead: _Sampling | None = None
        self._seconds: dict[str, float] = {}  # of ``pending``

    def resume(self, pending: Iterable[Scored]) -> None:
        """Go on with the rollouts in a checkpoint; none: its next step is sampled when it begins."""
        self.pending, self._seconds = sampling.grouped(pending), {}

    def of(self, step: int) -> list[ScoredGroup]:
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

    def staleness(self, step: int, groups: Sequence[ScoredGroup]) -> dict[str, float]:
        """A metric of runs that sample ahead: by how many weight versions the rollouts that ``step`` learns from lag behind, in
        the mean."""
        if not self.config.sync.max_staleness or not groups:
            return {}
        return {"staleness": fmean(step - score.version for group in groups for score in group.scores)}

    def evaluated(self, tasks: Sequence[Task], prompts: Sequence[Prompt], samples: int, greedy: bool) -> list[ScoredGroup]:
        """Held-out tasks with ``samples`` scored completions each. Seeds are those of step 0."""
        requests = sampling.requests(tasks, prompts, samples, self.config.seed, 0)
        return self._scored(tasks, prompts, requests, Clock(), greedy=greedy)

    def _rollouts(self, step: int, clock: Clock, leave: Callable[[], bool] | None = None) -> list[ScoredGroup]:
        """Scored completions of the step's prompts. Groups whose rewards are all equal are replaced, up to ``refill_rounds``
        times."""
        if self.recorded is not None:
            with clock("read"):
                return sampling.grouped(self.recorded.of(step))
        config = self.config
        groups = self._sample(self.source.batch(step, config.batch_size), step, 0, clock, leave)
        rounds = config.section.refill_rounds if isinstance(config.section, GRPOSection) else 0
        for refill_round in range(1, rounds + 1):
            empty = [place for place, group in enumerate(groups) if not sampling.has_spread(group)]
            if not empty:
                break
            tasks = self.source.batch(step, config.batch_size, refill_round)[: len(empty)]
            for group in self._sample(tasks, step, refill_round, clock, leave):
                if sampling.has_spread(group):
                    groups[empty[group.group]] = replace(group, group=empty[group.group])
        return groups

    def _sample(
        self, tasks: Sequence[Task], step: int, refill_round: int, clock: Clock, leave: Callable[[], bool] | None
    ) -> list[ScoredGroup]:
        prompts = [self.prompter.prompt(task) for task in tasks]
        samples, seed = self.config.samples_per_prompt, self.config.seed
        return self._scored(tasks, prompts, sampling.requests(tasks, prompts, samples, seed, step, refill_round), clock, leave)

    def _scored(
        self,
        tasks: Sequence[Task],
        prompts: Sequence[Prompt],
        requests: Sequence[Sequence[SampleRequest]],
        clock: Clock,
        leave: Callable[[], bool] | None = None,
        greedy: bool = False,
    ) -> list[ScoredGroup]:
        """One group for each task. The reward of a group begins when its completions are there, while others are sampled."""
        config, roles = self.config, self.roles
        while True:
            batch = roles.reward.batch()
            try:
                with clock("sample"):
                    for g, found in roles.rollout.stream(requests, config.temperature, config.max_new_tokens, greedy, leave):
                        batch.add(SampledGroup(tasks[g], g, prompts[g], len(requests[g]), found))
                if leave is not None and leave():
                    raise CallLeft("the samples are not wanted any more")
                with clock("reward"):  # what is left of it
                    return batch.finish()
            except ObjectsLost as error:
                roles.restarts.count(error)
                self.recorder.say(f"{error}; they are sampled again")


class _Sampling(threading.Thread):
    """Runs ``sample(clock, leave)`` from now on. A daemon: a process that ends does not wait for it."""

    def __init__(self, sample: Callable[[Clock, Callable[[], bool]], list[ScoredGroup]]):
        super().__init__(name="r0-ahead", daemon=True)
        self.clock, self.left = Clock(), False
        self._sample = sample
        self._found: list[ScoredGroup] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """The thread's work."""
        try:
            self._found = self._sample(self.clock, lambda: self.left)
        except BaseException as error:
            self.error = error

    def result(self) -> list[ScoredGroup]:
        """The rollouts, once the thread has ended.

        Raises:
            Exception: the one that ended it.
        """
        if self.error is not None:
            raise self.error
        return self._found
