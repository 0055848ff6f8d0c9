"""The recorder called by the training loop: one call per step fills the record, rollouts, mirrors and progress line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from r0.config import TrackingSection
from r0.process.objects import ObjectsLost
from r0.records import ScoredGroup
from r0.runs.calibration import FOLDER as HELDOUT
from r0.runs.calibration import drop_later
from r0.runs.live import LiveLine
from r0.runs.mirrors import Mirror, TensorBoardMirror, TrackerMirror, TrackerRun
from r0.runs.record import Clock, Record, heldout_lines, memory_mb, read_record
from r0.runs.resolved import Value
from r0.runs.rollout_log import Pack, RolloutLog
from r0.runs.run_directory import RunDirectory
from r0.storage.files import writing
from r0.storage.rollout_lines import each_packed

BAD_BATCHES = "bad_batches"
AFTER_THE_STEP = ("evaluate", "checkpoint")  # measured after the step's line was written, but part of that step


class Recorder:
    """The record of one run and its mirrors. A context manager.

    Args:
        run: the opened run directory.
        tracking: which mirrors to use, and how often rollouts are stored.
        total: steps of the run.
        config: the resolved configuration, flat, for the mirrors.
        decode: converts prompt ids to text for the rollout log; None omits the prompts' text.
        keep: whether rollouts are stored at all.
        pack: makes the parts of their files.
    """

    def __init__(
        self,
        run: RunDirectory,
        tracking: TrackingSection,
        total: int,
        config: Mapping[str, Value] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        keep: bool = True,
        pack: Pack = each_packed,
    ):
        self.clock = Clock()
        self.metrics, self.timings = Record(run.metrics_file), Record(run.timings_file)
        self._run, self._decode, self._pack = run, decode, pack
        self.rollouts = self._log(run.folder("rollouts"))
        self._writer = ThreadPoolExecutor(1, "r0-rollouts")
        self._writing: Future[Path] | None = None
        self._total, self._every, self._kept = total, tracking.rollouts_every, keep
        self._mirrors = _mirrors(run, tracking, config or {})
        self._line = LiveLine(total)
        self._pending: tuple[int, dict[str, float]] = (0, {})

    def resume(self, step: int, every: int = 1) -> None:
        """Resume after ``step`` (0: from the beginning). Everything recorded after it is dropped, since those steps are
        repeated. ``every``: steps between lines of the record.
        """
        with contextlib.suppress(ObjectsLost):  # of a later step: a checkpoint waits for the rollouts of its own
            self._wait_for_rollouts()
        lost = self.metrics.resume(step, every)
        self.timings.resume(step)
        self.rollouts.resume(step)
        for folder in (self._run.path / BAD_BATCHES, *(self._run.path / HELDOUT).glob("*")):
            RolloutLog(folder).resume(step)
        drop_later(self._run.path / HELDOUT, step)
        self._line = LiveLine(self._total, step)
        self._pending = (step, {})
        if step:
            self.say(f"resuming after step {step} of {self._total}")
        if lost:
            self.say(lost)

    def step(self, step: int, metrics: Mapping[str, float], groups: Sequence[ScoredGroup] = ()) -> None:
        """Record a completed step. ``metrics`` must be reproducible; seconds come from ``clock``."""
        seconds = self._take_seconds()
        tokens = sum(score.tokens for group in groups for score in group.scores)
        if tokens and seconds.get("sample"):
            seconds["sampled_tokens_per_s"] = tokens / seconds["sample"]
        seconds |= {f"rss_mb/{name}": value for name, value in memory_mb().items()}
        self._pending = (step, seconds)
        self.metrics.write(step, metrics)
        if self._kept and groups and (step % self._every == 0 or step == self._total):
            self._keep(step, groups)
        self._mirror(step, {**metrics, **{f"time/{name}": value for name, value in seconds.items()}})
        self._line.update(step, metrics, seconds)

    def evaluation(
        self, step: int, metrics: Mapping[str, float], groups: Mapping[str, Sequence[ScoredGroup]] | None = None
    ) -> None:
        """Record a held-out evaluation after ``step``, as a line of its own; ``groups``: its completions by mode, which are
        stored before."""
        for mode, completions in (groups or {}).items():
            folder = self._run.folder(HELDOUT) / mode
            with writing(folder):
                folder.mkdir(exist_ok=True)
            self._log(folder).write(step, completions)
        self.metrics.write(step, metrics)
        self._mirror(step, metrics)
        judged = ("accuracy", "accuracy_well_formed", "ndcg@10", "ndcg@10_given", "ndcg@10_well_formed")
        shown = ("reward", *judged, "format_rate")
        for mode in dict.fromkeys(name.rpartition("/")[0] for name in metrics if name.rpartition("/")[2] == "format_rate"):
            figures = [f"{name} {metrics[f'{mode}/{name}']:.3f}" for name in shown if f"{mode}/{name}" in metrics]
            self.say(f"step {step}/{self._total}  {mode or 'held-out'}: {'  '.join(figures)}")

    def keep_bad(self, step: int, groups: Sequence[ScoredGroup]) -> Path:
        """Store the rollouts of a step that the learner could not use, in the format of ``rollouts/``; returns the file."""
        return self._log(self._run.folder(BAD_BATCHES)).write(step, groups)

    def evaluated(self, step: int) -> bool:
        """Whether the record has a held-out evaluation after ``step``."""
        return any(line["step"] == step for line in heldout_lines(self.metrics.path))

    def has(self, step: int, names: Iterable[str]) -> bool:
        """Whether a line of the record after ``step`` has all these figures."""
        return any(line["step"] == step and set(names) <= line.keys() for line in read_record(self.metrics.path))

    def folder(self, name: str) -> Path:
        """One of r0's folders in the run, created if missing."""
        return self._run.folder(name)

    def say(self, text: str) -> None:
        """Print a line for the user."""
        self._line.say(text)

    def sync(self) -> None:
        """Flush the record to disk; call it before a checkpoint counts as complete."""
        self._wait_for_rollouts()
        self.metrics.sync()

    def close(self) -> None:
        """Write what is left; takes at most a few seconds, even if a mirror hangs."""
        try:
            self._take_seconds()
            self._wait_for_rollouts()
        finally:
            self._line.close()
            self.metrics.close()
            self.timings.close()
            self._writer.shutdown()
            for mirror in self._mirrors:
                mirror.close()
            self._mirrors = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _log(self, folder: Path) -> RolloutLog:
        return RolloutLog(folder, self._decode, self._pack)

    def _keep(self, step: int, groups: Sequence[ScoredGroup]) -> None:
        """Write the rollouts while the next step is sampled; a write error is raised at the next call."""
        self._wait_for_rollouts()
        self._writing = self._writer.submit(self.rollouts.write, step, groups, self.rollouts.prompt_texts(groups))

    def _wait_for_rollouts(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _take_seconds(self) -> dict[str, float]:
        """The seconds of the new step; those of the previous step are now complete and are written."""
        seconds = self.clock.take()
        step, pending = self._pending
        pending |= {name: seconds.pop(name) for name in AFTER_THE_STEP if name in seconds}
        if pending:
            self.timings.write(step, pending)
        self._pending = (step, {})
        return seconds

    def _mirror(self, step: int, values: Mapping[str, float]) -> None:
        for mirror in self._mirrors:
            mirror.write(step, {name: float(value) for name, value in values.items()})


def _mirrors(run: RunDirectory, tracking: TrackingSection, config: Mapping[str, Value]) -> list[Mirror]:
    mirrors: list[Mirror] = []
    if tracking.tensorboard:
        mirrors.append(TensorBoardMirror(run.folder("tensorboard")))
    name = tracking.name or run.path.name

    def add(tracker: str, place: str, mode: str = "online") -> None:
        settings = TrackerRun(tracker, tracking.project, name, run.marker.run_id, place, dict(config), mode)
        mirrors.append(TrackerMirror(settings, run.folder("logs") / f"{tracker}.log"))

    if tracking.wandb != "off":
        add("wandb", str(run.folder("wandb")), tracking.wandb)
    if tracking.mlflow is not None:
        add("mlflow", tracking.mlflow)
    if tracking.trackio:
        add("trackio", str(run.folder("trackio")))
    return mirrors
