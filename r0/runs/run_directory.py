"""The directory of a run. Its contents:

    run.json        command, r0's version, the run's id; a folder with this file is a run
    config.yaml     the resolved configuration; the same command can load it
    metrics.jsonl   the record: only values that a repeated run reproduces
    timings.jsonl   seconds, tokens per second, memory
    rollouts/       sampled completions with verdicts and rewards, one file per step
    queries.jsonl   rerank, distill score: one line per finished query; a resumed run skips these
    run.trec        rerank: the result
    annotations.jsonl   annotate: the annotation of each finished pair; a resumed run skips these
    rows.jsonl, raw_log.jsonl   annotate: the result
    scores.jsonl    distill score: the result
    summary.json    rerank, annotate, distill score: failures, tokens, seconds
    thoughts.jsonl  stage_c: completions of the starting model, sampled once
    before.json, after.json   stage_c: measures on held-out lists
    checkpoints/    the state from which a resumed run continues
    model/          the final model in Hugging Face format; adapter/ next to it after LoRA
    score/ triplets.jsonl train/ score_test/ eval/   distill: the outputs of its steps, each as written by that command
    before/ after/ gain.json   distill eval: the scores of both models, and the measures
    logs/ tensorboard/ wandb/
    finished.json   written last: the run is complete

Files with other names are never touched.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel

from r0 import __version__
from r0.errors import UserError
from r0.runs import resolved
from r0.runs.lock import LOCK, release, take_lock
from r0.storage.files import TEMPORARY, write_atomic, write_json, writing

MARKER, CONFIG, FINISHED = "run.json", "config.yaml", "finished.json"

# The names that r0 creates in a run directory, in the order in which `fresh` deletes them: the marker comes last, so that an
# interrupted deletion leaves a folder that is still recognized as a run.
OWNED = (
    FINISHED,
    "checkpoints",
    "metrics.jsonl",
    "timings.jsonl",
    "rollouts",
    "queries.jsonl",
    "run.trec",
    "annotations.jsonl",
    "rows.jsonl",
    "raw_log.jsonl",
    "scores.jsonl",
    "summary.json",
    "thoughts.jsonl",
    "before.json",
    "after.json",
    "warm_start",
    "score",
    "triplets.jsonl",
    "train",
    "score_test",
    "eval",
    "before",
    "after",
    "gain.json",
    "data",
    "model",
    "adapter",
    "logs",
    "tensorboard",
    "wandb",
    CONFIG,
    MARKER,
)


class RunState(StrEnum):
    """The state of a directory when it was opened."""

    NEW = "new"
    RESUMABLE = "resumable"  # started with this configuration and not complete
    FINISHED = "finished"


@dataclass(frozen=True)
class Marker:
    """``run.json``."""

    command: str
    run_id: str
    made_by: str = "r0"
    version: str = __version__
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


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

        ``fresh`` first deletes what r0 created in it. Keys in ``resolved.MAY_CHANGE`` may differ from the existing run's;
        ``config.yaml`` is then rewritten.

        Raises:
            UserError: the directory was not created by r0, belongs to another command or configuration, is in use, or is not
                writable.
        """
        path = Path(path).expanduser()
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(path)
        lock = take_lock(path)
        try:
            if fresh:
                _delete_owned(path)
            marker = _read_marker(path)
            if marker is None or not (path / CONFIG).is_file():  # new, or its creation was interrupted
                marker = Marker(command, run_id=secrets.token_hex(4))
                write_json(path / MARKER, asdict(marker))
                state = RunState.NEW
            else:
                _refuse_other(path, marker, command, config)
                state = RunState.FINISHED if (path / FINISHED).is_file() else RunState.RESUMABLE
            _write_config(path, command, config)
        except BaseException:
            release(lock)
            raise
        return cls(path, marker, state, lock)

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


def _read_marker(path: Path) -> Marker | None:
    try:
        content = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if content["made_by"] != "r0":
            return None
        return Marker(**{name: str(content[name]) for name in Marker.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse_foreign(path: Path) -> None:
    """Refuse a folder that has content but no marker, even with ``fresh``."""
    with writing(path):
        names = sorted(entry for entry in os.listdir(path) if entry != LOCK and not entry.startswith(TEMPORARY))
    if names and _read_marker(path) is None:
        raise UserError(f"output: {path} is not empty and not a run of r0 (it contains {names[0]}); choose another output=")


def _refuse_other(path: Path, marker: Marker, command: str, config: BaseModel) -> None:
    there = resolved.read_flat(path / CONFIG, type(config))
    found = [f"command ({marker.command} there, {command} here)"] if marker.command != command else []
    found += resolved.differences(there, resolved.flat(config))
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise UserError(
            f"output: {path} belongs to another configuration: {', '.join(found[:5])}{more}; "
            "choose another output=, or delete that run and start over with fresh=true"
        )


def _write_config(path: Path, command: str, config: BaseModel) -> None:
    """Write ``config.yaml`` if it changes, with the resolved output and without ``fresh``."""
    known = {"output": str(path), "fresh": False}
    kept = config.model_copy(update={name: value for name, value in known.items() if name in type(config).model_fields})
    content = resolved.to_yaml(command, kept).encode()
    file = path / CONFIG
    if not file.is_file() or file.read_bytes() != content:
        write_atomic(file, content)


def _delete_owned(path: Path) -> None:
    """Delete what r0 created, and nothing else; links are removed, not followed."""
    if _read_marker(path) is None:
        return
    with writing(path):
        unfinished = sorted(name for name in os.listdir(path) if name.startswith(TEMPORARY))
        for target in (path / name for name in (*unfinished, *OWNED)):
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
