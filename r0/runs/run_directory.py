"""The directory of a run. Its contents:

    run.json        command, r0's version, the run's id; a folder with this file is a run
    config.yaml     the resolved configuration; the same command can load it
    inputs.json     the files that the run reads, with a hash of each; a resumed run must find the same
    metrics.jsonl   the record: only values that a repeated run reproduces
    timings.jsonl   seconds, tokens per second, memory
    rollouts/       sampled completions with verdicts and rewards, one file per step
    heldout/        of each held-out evaluation: greedy/ and sampled/, its completions in the same format; stage_c, esci: its
                    calibration and confusion
    bad_batches/    those of steps that the learner could not use, in the same format
    profile/        trace.json and table.txt: where the seconds of some steps went
    queries.jsonl   rerank, distill score: one line per finished query; a resumed run skips these
    run.trec        rerank: the result
    annotations.jsonl   annotate: the annotation of each finished pair; a resumed run skips these
    rows.jsonl, raw_log.jsonl   annotate: the result
    scores.jsonl    distill score: the result
    summary.json    rerank, annotate, distill score: failures, tokens, seconds
    thoughts.jsonl  stage_c: completions of the starting model, sampled once
    before.json, after.json   stage_c: measures on held-out lists
    report.html     the page that `r0 report` wrote
    checkpoints/    the state from which a resumed run continues
    model/          the final model in Hugging Face format; adapter/ next to it after LoRA
    score/ triplets.jsonl train/ score_test/ eval/   distill: the outputs of its steps, each as written by that command
    before/ after/ gain.json   distill eval: the scores of both models, and the measures
    sets/ table.md table.json   bench: the first stage, the reranked run and the measures of each data set; the table
    logs/ tensorboard/ wandb/ trackio/
    finished.json   written last: the run is complete

Files with other names are never touched.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel

from r0.data.named.resolve import with_names
from r0.errors import UserError
from r0.runs import inputs, resolved
from r0.runs.claim import (
    CONFIG,
    FINISHED,
    MARKER,
    OWNED,
    Marker,
    belongs_to_another,
    delete_owned,
    holds_work,
    read_marker,
    refuse_foreign,
)
from r0.runs.lock import release, take_lock
from r0.storage.files import write_atomic, write_json, writing


class RunState(StrEnum):
    """The state of a directory when it was opened."""

    NEW = "new"
    RESUMABLE = "resumable"  # started with this configuration and not complete
    FINISHED = "finished"


@dataclass(frozen=True)
class Finished:
    """``finished.json``: the number of completed steps and the final metrics."""

    steps: int
    figures: Mapping[str, float] = field(default_factory=dict)


def default_output(command: str, config: BaseModel) -> Path:
    """``runs/<command>-<hash>``, with a hash of the configuration without ``output`` and ``fresh``."""
    return Path("runs") / f"{command.replace(' ', '_')}-{resolved.config_hash(command, config)}"


class RunDirectory:
    """An opened, locked run directory; created by ``RunDirectory.open``. A context manager."""

    def __init__(self, path: Path, marker: Marker, state: RunState, lock: int | None):
        self.path, self.marker, self.state, self._lock = path, marker, state, lock

    @classmethod
    def open(cls, path: str | Path, command: str, config: BaseModel, fresh: bool = False) -> Self:
        """Create the directory at ``path``, or open the existing run, and lock it.

        ``fresh`` first deletes what r0 created in it; a run that holds no work (``claim``) makes way without it. Keys in
        ``resolved.MAY_CHANGE`` may differ from the existing run's; ``config.yaml`` is then rewritten.

        Raises:
            UserError: the directory was not created by r0, belongs to another command, configuration or other data, is in use,
                or is not writable.
        """
        path = Path(path).expanduser()
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        refuse_foreign(path)
        lock = take_lock(path)
        try:
            if fresh or _is_replaced(path, command, config):
                delete_owned(path)
            state, marker = _state(path, config), read_marker(path)
            if state == RunState.NEW or marker is None:
                marker = Marker(command, run_id=secrets.token_hex(4))
                write_json(path / MARKER, asdict(marker))
            if state == RunState.RESUMABLE:
                (path / FINISHED).unlink(missing_ok=True)  # it was finished at another length
            inputs.write(path, config, anew=state == RunState.NEW)
            _write_config(path, command, config)
        except BaseException:
            release(lock)
            raise
        return cls(path, marker, state, lock)

    @staticmethod
    def look(path: str | Path, command: str, config: BaseModel, fresh: bool = False) -> RunState:
        """The state in which ``open`` would give the directory. Nothing is written, so that it can be asked before slow checks.

        Raises:
            UserError: as ``open``, except that the directory may be in use.
        """
        path = Path(path).expanduser()
        if not path.exists():
            return RunState.NEW
        refuse_foreign(path)
        return RunState.NEW if fresh or _is_replaced(path, command, config) else _state(path, config)

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG

    @property
    def metrics_file(self) -> Path:
        """The record."""
        return self.path / "metrics.jsonl"

    @property
    def timings_file(self) -> Path:
        """Timings and other values that are not reproducible."""
        return self.path / "timings.jsonl"

    def folder(self, name: str) -> Path:
        """One of r0's folders in the run (``rollouts``, ``checkpoints``, ``model``, …), created if missing."""
        if name not in OWNED or "." in name:
            raise ValueError(f"{name} is not a folder of a run; add it to OWNED so that fresh=true deletes it")
        with writing(self.path / name):
            (self.path / name).mkdir(exist_ok=True)
        return self.path / name

    def finish(self, steps: int, figures: Mapping[str, float] | None = None) -> None:
        """Mark the run as complete, by writing the last file."""
        write_json(self.path / FINISHED, {"steps": steps, "figures": dict(figures or {})})
        self.state = RunState.FINISHED

    def finished(self) -> Finished | None:
        """The content written by ``finish``, or None if the run is not complete."""
        try:
            content = json.loads((self.path / FINISHED).read_text(encoding="utf-8"))
            return Finished(int(content["steps"]), dict(content["figures"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path / FINISHED}: is damaged ({error}); delete it and run the same command again") from None

    def close(self) -> None:
        """Release the lock."""
        release(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _state(path: Path, config: BaseModel) -> RunState:
    """A finished run whose length has changed since can be resumed."""
    if read_marker(path) is None or not (path / CONFIG).is_file():  # new, or its creation was interrupted
        return RunState.NEW
    finished = (path / FINISHED).is_file() and not resolved.other_length(path / CONFIG, config)
    return RunState.FINISHED if finished else RunState.RESUMABLE


def _is_replaced(path: Path, command: str, config: BaseModel) -> bool:
    """Whether the run there belongs to another configuration or other data and holds no work, so that this one takes its place.

    Raises:
        UserError: it holds work.
    """
    marker = read_marker(path)
    if marker is None or _state(path, config) == RunState.NEW:
        return False
    reason = belongs_to_another(path, marker, command, config)
    if not reason:
        return False
    if holds_work(path):
        raise UserError(reason)
    return True


def _write_config(path: Path, command: str, config: BaseModel) -> None:
    """Write ``config.yaml`` if it changes, with the resolved output and without ``fresh``."""
    known = {"output": str(path), "fresh": False}
    kept = with_names(resolved.absolute(config))
    kept = kept.model_copy(update={name: value for name, value in known.items() if name in type(config).model_fields})
    content = resolved.to_yaml(command, kept).encode()
    file = path / CONFIG
    if not file.is_file() or file.read_bytes() != content:
        write_atomic(file, content)
