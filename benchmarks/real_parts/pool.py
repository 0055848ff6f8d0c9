"""The test parts of several folds as one: their queries are disjoint, so that their runs and judgements are put together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.real_parts.steps import Setting, plan, run_file
from benchmarks.real_parts.table import table
from benchmarks.real_parts.wheels import ENCODER_FOLDER, MODEL_FOLDER
from r0.errors import UserError
from r0.storage.files import write_atomic, write_json


def pooled(folders: Sequence[Path]) -> str:
    """The table of the steps that are done in all folders, over all their test queries; the files are in the first folder's
    ``pooled``, which is made anew.

    Raises:
        UserError: a folder has no measurements; the folders are of other data or models, or two of them of the same fold.
    """
    sources = [_source(folder) for folder in folders]
    for folder, source in zip(folders, sources, strict=True):
        if changed := [name for name in source if name != "fold" and source[name] != sources[0][name]]:
            raise UserError(f"{folder} was made with another {', '.join(changed)} than {folders[0]}; pool folds alone")
    folds = [source["fold"] for source in sources]
    if len(set(folds)) < len(folds):
        raise UserError(f"--pool: two folders have the same fold ({', '.join(folds)}); their queries are the same")
    output = folders[0] / "pooled"
    shutil.rmtree(output, ignore_errors=True)
    for name in ("data/qrels", "done"):
        (output / name).mkdir(parents=True)
    at = [_setting(folder, source) for folder, source in zip(folders, sources, strict=True)]
    to = _setting(output, sources[0])
    _join([one.data / "test.trec" for one in at], to.data / "test.trec")
    _join([one.data / "qrels" / "test.tsv" for one in at], to.data / "qrels" / "test.tsv", headed=True)
    for step in plan(to):
        mark = Path("done") / f"{step.name}.json"
        if step.title and all((one.folder / mark).is_file() for one in at):
            to.made(step.name).mkdir(parents=True)
            _join([run_file(one, step) for one in at], run_file(to, step))
            write_json(to.folder / mark, {})
    return table(to)


def _source(folder: Path) -> dict[str, str]:
    file = folder / "source.json"
    if not file.is_file():
        raise UserError(f"{folder} has no source.json; give the --output of a finished run")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _setting(folder: Path, source: dict[str, str]) -> Setting:
    """Enough of a setting for the names of the steps and of the table's rows."""
    models = folder / "models"
    model, encoder = Path(source["model"] or models / MODEL_FOLDER), Path(source["encoder"] or models / ENCODER_FOLDER)
    return Setting(folder, folder, model, encoder, int(source["seed"]))


def _join(files: Sequence[Path], to: Path, headed: bool = False) -> None:
    """Write the files' lines, with the first line of the first one alone where all have a headline."""
    lines = [file.read_bytes().splitlines(keepends=True) for file in files]
    first = lines[0][:1] if headed else []
    write_atomic(to, [*first, *(line for one in lines for line in (one[1:] if headed else one))])
