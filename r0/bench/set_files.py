"""The files of a data set: its folder, the run of a first stage, judgements, and what BRIGHT excludes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r0.bench.suite import BenchSet
from r0.config import RetrieveConfig
from r0.data.beir import find_qrels
from r0.data.compressed import SUFFIXES
from r0.data.jsonl import BadLines, read_lines
from r0.data.named.resolve import with_local_data
from r0.data.table import folder_file
from r0.errors import UserError


@dataclass(frozen=True, slots=True)
class SetFiles:
    """Where a data set's files are."""

    folder: Path  # BEIR folder
    run: Path | None  # TREC run of the first stage; None: BM25 makes one
    qrels: Path
    excluded: tuple[Path, ...]  # BRIGHT's queries with excluded_ids


def find_files(one: BenchSet) -> SetFiles:
    """The files of a data set.

    Raises:
        UserError: the folder or a file is missing, or the folder has several runs.
    """
    folder = Path(with_local_data(RetrieveConfig(data=one.data, output="")).data)
    if not folder.is_dir():
        raise UserError(f"data: {folder}: no such folder; give a BEIR folder with corpus.jsonl, queries.jsonl and qrels/")
    queries = folder_file(folder, "queries")
    keys = _keys(queries) if queries.is_file() else frozenset()
    excluded = Path(one.excluded) if one.excluded is not None else queries if "excluded_ids" in keys else None
    run = Path(one.run) if one.run is not None else _run(folder)
    for name, path in (("run", run), ("excluded", excluded)):
        if path is not None and not path.is_file():
            raise UserError(f"{name}: {path}: no such file; correct it in the suite's file")
    return SetFiles(folder, run, _qrels(one, folder, queries, "gold_ids" in keys), () if excluded is None else (excluded,))


def _keys(path: Path) -> frozenset[str]:
    """The keys of a file's first row."""
    first = next(read_lines(path, BadLines(skip=True)), None)
    return frozenset() if first is None else frozenset(first.row)


def _run(folder: Path) -> Path | None:
    """The run in a BEIR folder: the file that ends in .trec, compressed or not."""
    endings = tuple(f".trec{suffix}" for suffix in ("", *SUFFIXES))
    found = sorted(path for path in folder.iterdir() if path.name.endswith(endings))
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"run: {folder} has {names}; name the one of the first stage in a suite's file, as run:")
    return found[0] if found else None


def _qrels(one: BenchSet, folder: Path, queries: Path, gold: bool) -> Path:
    """The judgements that are named; else those of the split test or the only split, or BRIGHT's queries."""
    if one.qrels is not None:
        return find_qrels(one.qrels, folder)
    splits = {path.name.partition(".")[0] for path in (folder / "qrels").glob("*.*")}
    if not splits and gold:
        return queries
    return find_qrels(next(iter(splits)) if len(splits) == 1 else "test", folder)
