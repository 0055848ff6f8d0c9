"""Whether a folder may become the directory of a run: what is a run's, whose it is, and whether it holds any work.

A run that holds no work (no line of a record, no checkpoint, no outcome) is one that failed at its start; any other run may take
its place.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from r0 import __version__
from r0.data.named.resolve import with_names
from r0.errors import UserError
from r0.runs import inputs, resolved
from r0.runs.inputs import INPUTS
from r0.runs.lock import LOCK
from r0.storage.files import TEMPORARY, writing

MARKER, CONFIG, FINISHED = "run.json", "config.yaml", "finished.json"

# The names that r0 creates in a run directory, in the order in which `fresh` deletes them: the marker comes last, so that an
# interrupted deletion leaves a folder that is still recognized as a run.
OWNED = (
    FINISHED,
    "checkpoints",
    "metrics.jsonl",
    "timings.jsonl",
    "rollouts",
    "heldout",
    "bad_batches",
    "profile",
    "queries.jsonl",
    "run.trec",
    "annotations.jsonl",
    "rows.jsonl",
    "raw_log.jsonl",
    "scores.jsonl",
    "summary.json",
    "report.html",
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
    "sets",
    "table.md",
    "table.json",
    "data",
    "model",
    "adapter",
    "logs",
    "tensorboard",
    "wandb",
    "trackio",
    INPUTS,
    CONFIG,
    MARKER,
)

# What a run makes before it has done anything, or makes again.
NO_WORK = frozenset((INPUTS, CONFIG, MARKER, "timings.jsonl", "data", "logs", "report.html", "tensorboard", "wandb", "trackio"))


@dataclass(frozen=True)
class Marker:
    """``run.json``."""

    command: str
    run_id: str
    made_by: str = "r0"
    version: str = __version__
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def read_marker(path: Path) -> Marker | None:
    """The marker of the run at ``path``; None if there is none of r0."""
    try:
        content = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if content["made_by"] != "r0":
            return None
        return Marker(**{name: str(content[name]) for name in Marker.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_foreign(path: Path) -> None:
    """Refuse a folder that has content but no marker, even with ``fresh``.

    Raises:
        UserError: with a file that it contains.
    """
    with writing(path):
        names = sorted(entry for entry in os.listdir(path) if entry != LOCK and not entry.startswith(TEMPORARY))
    if names and read_marker(path) is None:
        raise UserError(f"output: {path} is not empty and not a run of r0 (it contains {names[0]}); choose another output=")


def belongs_to_another(path: Path, marker: Marker, command: str, config: BaseModel) -> str:
    """Why the run at ``path`` cannot go on with this command, configuration and data, as a sentence; empty if it can."""
    there, here = resolved.read_flat(path / CONFIG, type(config)), resolved.flat(with_names(config))
    found = [f"command ({marker.command} there, {command} here)"] if marker.command != command else []
    same, changed = inputs.compared(path, config)
    same |= resolved.same_paths(there, here, config)
    found += resolved.differences(there, here, same)
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        return (
            f"output: {path} belongs to another configuration: {', '.join(found[:5])}{more}; "
            "choose another output=, or delete that run and start over with fresh=true"
        )
    remedy = f"give what {path} began with, choose another output=, or start over with fresh=true"
    return f"{changed}; {remedy}" if changed else ""


def holds_work(path: Path) -> bool:
    """Whether a run has done anything that would be lost with it."""
    return any(_has_content(path / name) for name in OWNED if name not in NO_WORK) or (path / FINISHED).is_file()


def _has_content(path: Path) -> bool:
    if not path.is_dir():
        return path.is_file() and path.stat().st_size > 0
    if read_marker(path) is not None:
        return holds_work(path)
    return any(one.is_file() and one.stat().st_size > 0 for one in path.rglob("*"))


def delete_owned(path: Path) -> None:
    """Delete what r0 created, and nothing else; links are removed, not followed."""
    if read_marker(path) is None:
        return
    with writing(path):
        unfinished = sorted(name for name in os.listdir(path) if name.startswith(TEMPORARY))
        for target in (path / name for name in (*unfinished, *OWNED)):
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
