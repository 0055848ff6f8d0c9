"""A run is a directory. What r0 keeps there:

    run.json        what made it: command, r0's version, the run's id; its presence makes a folder a run
    config.yaml     the resolved configuration; the same command loads it again
    metrics.jsonl   the record: only what a repeated run repeats
    timings.jsonl   seconds, tokens a second, memory
    rollouts/       what was sampled and how it was judged, a file a step
    queries.jsonl   rerank, distill score: one line a finished query; what a resumed run does not do again
    run.trec        rerank: the result
    annotations.jsonl   annotate: what each pair got; what a resumed run does not do again
    rows.jsonl, raw_log.jsonl   annotate: the result
    scores.jsonl    distill score: the result
    summary.json    rerank, annotate, distill score: failures, tokens, seconds
    thoughts.jsonl  stage_c: completions of the starting model, sampled once
    before.json, after.json   stage_c: what was measured on held-out lists
    checkpoints/    what a resumed run starts from
    model/          the final model in Hugging Face form; adapter/ beside it after LoRA
    score/ triplets.jsonl train/ score_test/ eval/   distill: its steps, each as the command of its name leaves it
    before/ after/ gain.json   distill eval: the scores of both models, and the measures
    logs/ tensorboard/ wandb/
    finished.json   written last: the run is over

Other names in the folder are not r0's and are never touched.
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

# What r0 makes in a run directory, in the order in which `fresh` deletes it: the marker last, so that a deletion that was
# interrupted leaves a folder that is still known as a run.
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
    """What a directory held when it was opened."""

    NEW = "new"
    RESUMABLE = "resumable"  # begun with this configuration and not over
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
    """``finished.json``: the steps that were done and the last figures."""

    steps: int
    figures: Mapping[str, float] = field(default_factory=dict)


def default_output(command: str, config: BaseModel) -> Path:
    """``runs/<command>-<hash>``; the hash is of the configuration without ``output`` and ``fresh``."""
    return Path("runs") / f"{command.replace(' ', '_')}-{resolved.config_hash(command, config)}"


class RunDirectory:
    """An opened, locked run directory. Make one with ``RunDirectory.open``; it is also a context manager."""

    def __init__(self, path: Path, marker: Marker, state: RunState, lock: int | None):
        self.path, self.marker, self.state, self._lock = path, marker, state, lock

    @classmethod
    def open(cls, path: str | Path, command: str, config: BaseModel, fresh: bool = False) -> Self:
        """Create the directory at ``path``, or open the run there, and lock it.

        ``fresh`` deletes what r0 made in it before. Keys in ``resolved.MAY_CHANGE`` may differ from the run's; ``config.yaml``
        is then rewritten.

        Raises:
            UserError: the directory is not r0's, belongs to another command or configuration, is in use, or cannot be written.
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
            if marker is None or not (path / CONFIG).is_file():  # new, or its making was interrupted
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
        """What cannot be repeated."""
        return self.path / "timings.jsonl"

    def folder(self, name: str) -> Path:
        """One of r0's folders in the run (``rollouts``, ``checkpoints``, ``model``, …), created when it is missing."""
        if name not in OWNED or "." in name:
            raise ValueError(f"{name} is not a folder of a run; add it to OWNED so that fresh=true deletes it")
        with writing(self.path / name):
            (self.path / name).mkdir(exist_ok=True)
        return self.path / name

    def finish(self, steps: int, figures: Mapping[str, float] | None = None) -> None:
        """Say that the run is over: the last file that is written."""
        write_json(self.path / FINISHED, {"steps": steps, "figures": dict(figures or {})})
        self.state = RunState.FINISHED

    def finished(self) -> Finished | None:
        """What ``finish`` wrote, or None while the run is not over."""
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
    """A folder with content but without a marker is not ours, whatever ``fresh`` says."""
    with writing(path):
        names = sorted(entry for entry in os.listdir(path) if entry != LOCK and not entry.startswith(TEMPORARY))
    if names and _read_marker(path) is None:
        raise UserError(f"output: {path} is not empty and holds no run of r0 ({names[0]} is there); choose another output=")


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
    """Write ``config.yaml`` where it would change: with the output that was resolved, and never with ``fresh``."""
    known = {"output": str(path), "fresh": False}
    kept = config.model_copy(update={name: value for name, value in known.items() if name in type(config).model_fields})
    content = resolved.to_yaml(command, kept).encode()
    file = path / CONFIG
    if not file.is_file() or file.read_bytes() != content:
        write_atomic(file, content)


def _delete_owned(path: Path) -> None:
    """Delete what r0 made, and only that; a link is removed, not followed."""
    if _read_marker(path) is None:
        return
    with writing(path):
        unfinished = sorted(name for name in os.listdir(path) if name.startswith(TEMPORARY))
        for target in (path / name for name in (*unfinished, *OWNED)):
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
