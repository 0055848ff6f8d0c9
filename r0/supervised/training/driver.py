"""The driver of Ray Train: starts one worker per rank and shows the reports of rank 0. Each rank runs the job's function.

With ``ray.inline=true`` the single rank runs in this process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from r0.actors.cluster import start_ray
from r0.actors.placement import bundles, check_nodes, cluster_gpus
from r0.errors import UserError
from r0.process.device import prepare, process_device
from r0.process.signals import Stopped, StopRequest
from r0.runs import Recorder, RunDirectory
from r0.supervised.training.job import Channel, FileChannel, Job, Kind, Report

STOPPED = "the training was stopped; the same command goes on from its checkpoint"
POLL_S = 0.25  # seconds between checks for new reports of rank 0
GROUP_TIMEOUT_S = 1800.0  # seconds after which a collective fails if a rank does not join

# Settings of Ray Train: poll often enough for a run of a few seconds, and start no unused helpers.
TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def end_if_asked(stop: StopRequest) -> None:
    """End a run that was asked to stop before it learns.

    Raises:
        Stopped: it was.
    """
    if stop():
        raise Stopped(stop.exit_code, STOPPED)


def train(
    job: Job, directory: RunDirectory, recorder: Recorder, stop: StopRequest, before: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Run the ranks of a job, from its newest checkpoint if there is one. Returns the metrics of the run.

    ``before``: held-out metrics of the starting model; the first entry of the record.

    Raises:
        UserError: a rank raised one; the cluster has too few resources for the ranks.
        Stopped: a signal asked the run to stop; its state is saved.
    """
    directory.folder("checkpoints")
    directory.folder("logs")
    job.clear(recorder.say)
    done = job.newest()[1]
    if done > job.steps:
        raise UserError(f"max_steps: the run has done {done} steps, more than {job.steps}; raise max_steps or epochs")
    recorder.resume(done, job.log_every)
    if before and not done:
        recorder.evaluation(0, before)
    handler = _ReportHandler(recorder, stop)
    with stop.at_once():  # until the first step is done
        if job.config.ray.inline:
            _inline(job, handler)
        else:
            start_ray(job.config)
            stop.install()  # Ray installs its own handlers
            check_nodes(Path(job.model), directory.path)
            _watch(job, handler)
    if handler.figures is None:
        raise Stopped(stop.exit_code, STOPPED)
    return handler.figures


def _inline(job: Job, channel: Channel) -> None:
    """Run the single rank of ``ray.inline=true`` in this process. Its process group is kept for later use."""
    from r0.actors.learner.zero import start_distributed

    start_distributed(0, 1, "127.0.0.1:0", process_device(job.config.gpus), timeout_s=GROUP_TIMEOUT_S)
    try:
        _rank_function(job)(job, channel)
    finally:  # else transformers takes every model that this process loads later for one that ZeRO-3 splits
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()


def _rank_function(job: Job) -> Callable[[Job, Channel], None]:
    """The function that each rank runs; imported in the rank, because it needs torch and transformers."""
    module, _, name = job.rank.partition(":")
    return getattr(importlib.import_module(module), name)


class _ReportHandler:
    """The channel of a rank in this process, and the receiving end of the file channel: writes reports to the run's record."""

    def __init__(self, recorder: Recorder, stop: StopRequest):
        self._recorder, self._stop = recorder, stop
        self.figures: dict[str, float] | None = None

    def stop_asked(self) -> bool:
        """See ``Channel``."""
        return self._stop()

    def send(self, report: Report) -> None:
        """Record and print a report."""
        if report.kind == Kind.STEP:
            for name, seconds in report.seconds.items():
                self._recorder.clock.add(name, seconds)
            self._recorder.step(report.step, report.values)
            self._stop.save_from_now_on()
        elif report.kind == Kind.EVALUATION:
            if not self._recorder.has(report.step, report.values):  # a run that goes on after its last step measures once more
                self._recorder.evaluation(report.step, report.values)
            self._recorder.say("  ".join(f"{name} {value:.4f}" for name, value in report.values.items()))
        elif report.kind == Kind.SAY:
            self._recorder.say(report.text)
        else:
            self.figures = dict(report.values)


def _watch(job: Job, handler: _ReportHandler) -> None:
    """Run Ray Train in a thread, so that this thread receives signals, and handle the reports of rank 0 until the end.

    Raises:
        UserError: a rank raised one.
        RuntimeError: a rank failed otherwise; with its traceback.
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
    """Run one Ray Train worker per rank."""
    from ray.train import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError

    from r0.supervised.training.process_group import ProcessGroup

    class WithoutCleaner(TorchTrainer):
        """A TorchTrainer without the actor that releases a dead controller's placement group: the group ends with the job, and
        the actor needs a dashboard and takes seconds to start."""

        def _create_default_callbacks(self) -> list:
            return [one for one in super()._create_default_callbacks() if type(one).__name__ != "PlacementGroupCleanerCallback"]

    for name, value in TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    need = bundles(job.config, has_gpus=cluster_gpus() > 0)
    gpu = need[0].gpus > 0
    trainer = WithoutCleaner(
        _ray_rank,
        train_loop_config={"job": job},
        torch_config=ProcessGroup(backend="nccl" if gpu else "gloo", timeout_s=int(GROUP_TIMEOUT_S)),
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
    """Run a rank. Its output goes to ``logs/rank-<r>.log``, because libraries print much that is unrelated to the run."""
    from ray.train import get_context

    job: Job = arguments["job"]
    log = Path(job.run) / "logs" / f"rank-{get_context().get_world_rank()}.log"
    prepare(process_device(job.config.gpus))  # Ray Train has set torch's device, and a rank inherits no variables of the driver
    with log.open("a") as output, _standard_streams(output.fileno()):
        _rank_function(job)(job, FileChannel(job))


@contextlib.contextmanager
def _standard_streams(target: int) -> Iterator[None]:
    """Redirect standard output and error of this process and its child processes to file descriptor ``target``."""
    saved = os.dup(1), os.dup(2)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), saved, strict=True):
            os.dup2(before, number)
            os.close(before)
