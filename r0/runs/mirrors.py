"""Mirrors of the record: Weights & Biases, MLflow, trackio and TensorBoard. The record is ``metrics.jsonl``; a failing mirror
never stops the run.

A tracker runs in a separate process (``tracker_process.py``) behind a bounded queue. The run adds lines to the queue without
waiting; if the tracker is dead, slow, or hangs at startup, lines are dropped and counted. It is a process and not a thread, so
that it can be killed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from r0.runs.resolved import Value

log = logging.getLogger("r0")


class Mirror(Protocol):
    """Something that shows the record elsewhere. Its methods never raise and never wait long."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Show one step."""

    def close(self) -> None:
        """Send what is left, within a few seconds."""


@dataclass(frozen=True)
class TrackerRun:
    """The run as a tracker sees it."""

    tracker: str  # wandb, mlflow or trackio
    project: str
    name: str
    id: str
    place: str  # a folder; of MLflow the tracking URI
    config: Mapping[str, Value]
    mode: str = "online"  # wandb: offline or online
    init_timeout_s: float = 60.0


class TrackerMirror:
    """A tracker in a separate process.

    Args:
        run: the settings of the tracker's run.
        log_file: receives the output of that process.
        queue_size: maximum number of queued steps; more are dropped.
        close_s: seconds that ``close`` may take; then the process is killed.
    """

    def __init__(self, run: TrackerRun, log_file: Path, queue_size: int = 256, close_s: float = 5.0):
        self.dropped = 0
        self._run, self._log_file, self._close_s = run, log_file, close_s
        self._queue: queue.Queue[bytes | None] = queue.Queue(queue_size)
        self._process: subprocess.Popen[bytes] | None = None
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._pump, name=f"r0-{run.tracker}", daemon=True)
        self._thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Queue one step, or drop it."""
        line = json.dumps({"step": step, **values}).encode() + b"\n"  # NaN is allowed: some trackers can show it
        if self._failed.is_set():
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Let the process send what is left, for at most ``close_s`` seconds, then end it."""
        deadline = time.monotonic() + self._close_s
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=self._close_s)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        late = self._thread.is_alive()
        self._end()
        self._thread.join(1.0)
        if late and not self._failed.is_set():
            upload = f", and `wandb sync` can upload {self._run.place}" if self._run.tracker == "wandb" else ""
            said = "%s did not finish within %g s and was killed; metrics.jsonl is complete%s"
            log.warning(said, self._run.tracker, self._close_s, upload)
        if self.dropped:
            log.warning("%s: %d steps were not mirrored; metrics.jsonl has them", self._run.tracker, self.dropped)

    def _pump(self) -> None:
        """Start the process and pass lines on until the end. Runs in its own thread, the only one that waits for the tracker."""
        tracker = self._run.tracker
        try:
            if importlib.util.find_spec(tracker) is None:
                raise RuntimeError(f"it is not installed: pip install {tracker}")
            with self._log_file.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(Path(__file__).with_name("tracker_process.py"))],
                    stdin=subprocess.PIPE, stdout=output, stderr=output,
                    start_new_session=True,  # Ctrl-C reaches only the run, which then closes this process
                )  # fmt: skip
            stdin = self._process.stdin
            if stdin is None:
                raise RuntimeError("the process has no standard input pipe")
            line: bytes | None = json.dumps(asdict(self._run)).encode() + b"\n"
            while line is not None:
                stdin.write(line)
                stdin.flush()
                line = self._queue.get()
            stdin.close()
            if self._process.wait() > 0:
                raise RuntimeError(f"exit code {self._process.returncode}")
        except (OSError, RuntimeError, ValueError) as error:
            self._failed.set()
            self.dropped += self._queue.qsize()
            said = "%s stopped (%s; see %s); the run continues and metrics.jsonl is complete"
            log.warning(said, tracker, error, self._log_file)

    def _end(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)


class TensorBoardMirror:
    """TensorBoard's event files, written without torch or TensorFlow.

    Args:
        folder: the folder of the event files.
    """

    def __init__(self, folder: Path):
        self._writer = None
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._writer = EventFileWriter(str(folder))
        except Exception as error:  # whatever fails in a mirror must not stop the run
            self._stop(error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        if self._writer is None:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary

            points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
            self._writer.flush()
        except Exception as error:
            self._stop(error)

    def close(self) -> None:
        """Close the event file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except Exception as error:
                self._stop(error)

    def _stop(self, error: Exception) -> None:
        self._writer = None
        log.warning("TensorBoard stopped (%s); the run continues and metrics.jsonl is complete", error)
