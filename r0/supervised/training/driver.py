"""Ray Train's driver: it starts one worker a rank and shows what rank 0 reports; each rank runs the function that the job names.

With ``ray.inline=true`` the one rank runs in this process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from r0.actors.placement import bundles, check_nodes, cluster_gpus, start_ray
from r0.errors import UserError
from r0.process.device import prepare, process_device
from r0.process.signals import StopRequest
from r0.runs import Recorder, RunDirectory
from r0.supervised.training.job import Channel, FileChannel, Job, Kind, Report

POLL_S = 0.25  # seconds between looks at what rank 0 reported
GROUP_TIMEOUT_S = 1800.0  # a collective that a rank never joins fails after this

# Ray Train's own: poll the ranks often enough for a run of seconds, and start no helpers that nobody reads.
TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


class Stopped(KeyboardInterrupt):
    """The run was asked to stop; a checkpoint is saved and the same command resumes. ``exit_code`` is 128 + the signal."""

    def __init__(self, exit_code: int):
        super().__init__("the training was stopped; the same command goes on from its checkpoint")
        self.exit_code = exit_code


def end_if_asked(stop: StopRequest) -> None:
    """End a run that was asked to stop before it learns.

    Raises:
        Stopped: it was.
    """
    if stop():
        raise Stopped(stop.exit_code)


def train(
    job: Job, directory: RunDirectory, recorder: Recorder, stop: StopRequest, before: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Run the ranks of a job to the end, from its newest checkpoint if there is one; the figures of the run.

    ``before``: held-out figures of the starting model, which the record begins with.

    Raises:
        UserError: what a rank raised as one; the cluster cannot hold the ranks.
        Stopped: a signal asked the run to stop, and it is saved.
    """
    directory.folder("checkpoints")
    directory.folder("logs")
    job.clear(recorder.say)
    done = job.newest()[1]
    if done > job.steps:
        raise UserError(f"max_steps: the run has done {done} steps, more than {job.steps}; raise max_steps or epochs")
    recorder.resume(done)
    if before and not done:
        recorder.evaluation(0, before)
    handler = _ReportHandler(recorder, stop)
    if job.config.ray.inline:
        end_if_asked(stop)
        _inline(job, handler)
    else:
        start_ray(job.config)
        stop.install()  # Ray has handlers of its own
        end_if_asked(stop)
        check_nodes(Path(job.model), directory.path)
        _watch(job, handler)
    if handler.figures is None:
        raise Stopped(stop.exit_code)
    return handler.figures


def _inline(job: Job, channel: Channel) -> None:
    """The one rank of ``ray.inline=true``, in this process; its process group stays, for whoever needs one next."""
    from r0.actors.learner.zero import start_distributed

    start_distributed(0, 1, "127.0.0.1:0", process_device(job.config.gpus), timeout_s=GROUP_TIMEOUT_S)
    _rank_function(job)(job, channel)


def _rank_function(job: Job) -> Callable[[Job, Channel], None]:
    """What each rank of the job runs; imported in the rank, since it needs torch and transformers."""
    module, _, name = job.rank.partition(":")
    return getattr(importlib.import_module(module), name)


class _ReportHandler:
    """The channel of a rank in this process, and the end of the file channel: reports go to the run's record."""

    def __init__(self, recorder: Recorder, stop: StopRequest):
        self._recorder, self.stop_asked = recorder, stop
        self.figures: dict[str, float] | None = None

    def send(self, report: Report) -> None:
        """Record and show."""
        if report.kind == Kind.STEP:
            for name, seconds in report.seconds.items():
                self._recorder.clock.add(name, seconds)
            self._recorder.step(report.step, report.values)
        elif report.kind == Kind.EVALUATION:
            self._recorder.evaluation(report.step, report.values)
            self._recorder.say("  ".join(f"{name} {value:.4f}" for name, value in report.values.items()))
        elif report.kind == Kind.SAY:
            self._recorder.say(report.text)
        else:
            self.figures = dict(report.values)


def _watch(job: Job, handler: _ReportHandler) -> None:
    """Run Ray Train in a thread, so that signals reach this one, and show what rank 0 reports until it is done.

    Raises:
        UserError: what a rank raised as one.
        RuntimeError: anything else that went wrong in a rank, with its traceback.
    """
    channel = FileChannel(job)
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            _fit(job)
        except BaseException as error:  # raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=fit, name="r0-ray-train", daemon=True)
    thread.start()
    alive = True
    while alive:
        thread.join(POLL_S)
        alive = thread.is_alive()
        if handler.stop_asked():
            channel.ask_to_stop()
        for report in channel.receive():
            handler.send(report)
    if failed:
        raise failed[0]


def _fit(job: Job) -> None:
    """One Ray Train worker a rank."""
    from ray.train import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError

    class WithoutCleaner(TorchTrainer):
        """Without the actor that gives a dead controller's placement group back: the group ends with the job, and the actor
        needs a dashboard and seconds of start."""

        def _create_default_callbacks(self) -> list:
            return [one for one in super()._create_default_callbacks() if type(one).__name__ != "PlacementGroupCleanerCallback"]

    for name, value in TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    need = bundles(job.config, has_gpus=cluster_gpus() > 0)
    gpu = need[0].gpus > 0
    trainer = WithoutCleaner(
        _ray_rank,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=len(need), use_gpu=gpu, resources_per_worker=need[0].resources),
        run_config=RunConfig(
            name="ray_train", storage_path=str(Path(job.run) / "logs"), logging_config=LoggingConfig(log_level="WARNING")
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        rank, cause = min(error.worker_failures.items())
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        raise RuntimeError(f"rank {rank} failed (its output is in logs/): {cause}") from cause


def _ray_rank(arguments: dict) -> None:
    """A rank's own output goes to ``logs/rank-<r>.log``: libraries say much that is not the run's."""
    from ray.train import get_context

    job: Job = arguments["job"]
    log = Path(job.run) / "logs" / f"rank-{get_context().get_world_rank()}.log"
    prepare(process_device(job.config.gpus))  # Ray Train has set torch's device, and a rank inherits no variables of the driver
    with log.open("a") as output, _standard_streams(output.fileno()):
        _rank_function(job)(job, FileChannel(job))


@contextlib.contextmanager
def _standard_streams(target: int) -> Iterator[None]:
    """Standard output and error of this process and of the compilers it starts go to file descriptor ``target``."""
    kept = os.dup(1), os.dup(2)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
