"""The data sets of a benchmark: a list that r0 has, a folder of BEIR folders, or a file that lists them.

A file is a mapping in YAML or JSON: ``NAME: {data: …, run: …, qrels: …, excluded: …, measure: …}``, all of them optional.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from r0.config.bench import SUITES
from r0.config.suggest import nearest_keys
from r0.config.yamlfile import Document, read
from r0.data.table import folder_file
from r0.errors import UserError
from r0.evaluation.measure_names import read_measures
from r0.evaluation.measures import MAIN

KEYS = ("data", "run", "qrels", "excluded", "measure")
_NAME_OF_DATA = re.compile(r"[a-z_]+:")  # hf:BeIR/scifact, which is no path


@dataclass(frozen=True, slots=True)
class BenchSet:
    """A data set of a benchmark."""

    name: str  # of its folder in the result
    data: str  # BEIR folder, or the name of a data set (r0.data.named)
    run: str | None = None  # TREC run of the first stage; None: that of the folder, or BM25
    qrels: str | None = None  # judgements: a split or a file; None: test, or the only ones
    excluded: str | None = None  # BRIGHT's queries with excluded_ids; None: the folder's queries, if they have any
    measure: str = MAIN  # of the table, by its name in ir_measures


def open_suite(suite: str, data_root: str | None = None) -> list[BenchSet]:
    """The data sets of a suite, in its order. Whether their files are there is not checked.

    Args:
        suite: one of ``SUITES``, a folder, or a file.
        data_root: folder below which paths in a file are; None: the folder of the file.

    Raises:
        UserError: there is no such suite, it lists no set, or an entry is wrong.
    """
    root = None if data_root is None else Path(data_root)
    if root is not None and not root.is_dir():
        raise UserError(f"data_root: there is no folder {root}; give the folder that has the data sets")
    if suite in SUITES:
        return _listed(Path(str(files("r0"))) / "assets" / "suites" / f"{suite}.yaml", root, suite)
    path = Path(suite)
    if path.is_dir():
        if root is not None:
            raise UserError(f"data_root: suite={suite} is a folder, which has the data sets itself; remove data_root")
        return _folders(path)
    if not path.is_file():
        raise UserError(
            f"suite: there is no {suite}; give {', '.join(SUITES)}, a folder of BEIR folders, or a file that lists data sets"
        )
    return _listed(path, path.parent if root is None else root, suite)


def _folders(path: Path) -> list[BenchSet]:
    """The BEIR folders in a folder, by name; a BEIR folder is a suite of one set."""
    candidates = [path] if _is_set(path) else sorted(path.iterdir())
    found = [BenchSet(one.name or one.resolve().name, str(one)) for one in candidates if one.is_dir() and _is_set(one)]
    if not found:
        raise UserError(f"suite: no folder in {path} has a corpus.jsonl and a queries.jsonl; give a folder of BEIR folders")
    return found


def _is_set(folder: Path) -> bool:
    return all(folder_file(folder, name).is_file() for name in ("corpus", "queries"))


def _listed(path: Path, root: Path | None, suite: str) -> list[BenchSet]:
    """The sets that a file lists."""
    document = read(path)
    if not document.values:
        raise UserError(f"{path}: lists no data set; write lines such as `scifact: {{data: beir/scifact}}`")
    found = [_entry(document, name, root) for name in document.values]
    if root is None and (missing := [one.name for one in found if not _NAME_OF_DATA.match(one.data)]):
        raise UserError(f"data_root: suite={suite} lists folders; give the folder that has {', '.join(missing)}")
    return found


def _entry(document: Document, name: str, root: Path | None) -> BenchSet:
    place, keys = document.places[name], document.values[name]
    if name.startswith(".") or re.search(r"[/\\\s]", name):
        raise UserError(f"{place}: {name} is no name of a folder; write the set's name without blanks and slashes")
    keys = {"data": keys} if isinstance(keys, str) else {} if keys is None else keys
    if not isinstance(keys, dict):
        raise UserError(f"{place}: {name} must be a mapping such as {{data: beir/{name}}}")
    for key, value in keys.items():
        where = document.places.get(f"{name}.{key}", place)
        if key not in KEYS:
            near = nearest_keys(key, KEYS, {})
            raise UserError(f"{where}: unknown key {key} of {name}; {f'did you mean {near[0]}?' if near else ', '.join(KEYS)}")
        if not isinstance(value, str) or not value:
            raise UserError(f"{where}: {key} of {name} must be a text")
    measure = keys.get("measure", MAIN)
    try:
        read_measures([measure])
    except UserError as error:
        raise UserError(f"{document.places.get(f'{name}.measure', place)}: {error}") from None
    own = root / name if root is not None and (root / name).is_dir() else None
    data = str(own) if own is not None else _below(root, keys.get("data", name))
    run, excluded = (_below(root, keys[key]) if key in keys else None for key in ("run", "excluded"))
    qrels = keys.get("qrels")
    if qrels is not None and (file := Path(_below(root, qrels))).is_file():
        qrels = str(file)  # else a split
    return BenchSet(name, data, run, qrels, excluded, measure)


def _below(root: Path | None, text: str) -> str:
    """A path in a suite's file as it is from here; a name of data stays one."""
    path = Path(text).expanduser()
    return text if root is None or _NAME_OF_DATA.match(text) else str(root / path)
