"""Replaces the names of data sets in a configuration by local files, and by their names again where a run is recorded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from r0.config.describe import keys, with_value
from r0.config.types import names_files
from r0.data.beir import find_qrels
from r0.data.named import store
from r0.data.named.layout import is_data
from r0.data.named.names import HUB, HubName, is_name
from r0.data.table import folder_file
from r0.errors import UserError

Config = TypeVar("Config", bound=BaseModel)

NOT_FOLDERS = ("qrels", "run", "runs", "teacher_scores", "excluded", "candidates")  # keys that name files or splits only


def with_local_data(config: Config) -> Config:
    """The configuration with the path of a file or a BEIR folder in place of every name of a data set; what each name has become
    is printed on stderr.

    Names are ``hf:…``, ``ir_datasets:…`` and folders of ``datasets`` or parquet. ``qrels``, if it is not given, is the split
    of a name that has judgements of one split only.

    Raises:
        UserError: a data set does not exist, cannot be had or is of no known layout.
    """
    values = config.model_dump(mode="python")
    for name, field in keys(type(config)):
        marked, value = names_files(field), _at(values, name)
        if marked is None or not marked.content or not value:
            continue
        if isinstance(value, str):
            found: Any = _local(name, value)
        elif isinstance(value, tuple) and all(isinstance(one, str) for one in value):
            found = tuple(_local(name, one) for one in value)
        else:
            continue
        if found != value:
            config = with_value(config, name, found)
            config = _with_only_split(config, found) if name == "data" else config
    return config


def with_names(config: Config) -> Config:
    """The configuration with the names of data sets in place of their paths in r0's cache, with the revision that was read."""
    values = config.model_dump(mode="python")
    for name, field in keys(type(config)):
        if names_files(field) is None:
            continue
        value = _at(values, name)
        if isinstance(value, str) and (named := store.name_of(value)) != value:
            config = with_value(config, name, named)
        elif isinstance(value, tuple) and all(isinstance(one, str) for one in value):
            there = tuple(map(store.name_of, value))
            config = with_value(config, name, there) if there != value else config
    return config


def with_kept_data(config: Config) -> Config:
    """As ``with_local_data``, but only from r0's cache: nothing is downloaded, and other names stay."""
    value = getattr(config, "data", None)
    entry = store.find(value) if isinstance(value, str) and not Path(value).is_file() else None
    return with_value(config, "data", str(_content(entry))) if entry is not None else config


def _local(key: str, text: str) -> str:
    """A value as a local path; as it is, if it names no data set."""
    judged = key.endswith("qrels")
    if is_name(text):
        try:
            entry, facts = _named(text, "test" if judged else "train")
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
    elif key.rpartition(".")[2] in NOT_FOLDERS or (found := _of_folder(key, text)) is None:
        return text
    else:
        entry, facts = found
    print(f"r0: {key}: {facts['name']}: {_counted(facts)}, in {entry}", file=sys.stderr)
    path = _content(entry)
    return str(_judgements(text, path) if judged and path.is_dir() else path)


def _named(text: str, preferred: str) -> tuple[Path, store.Facts]:
    from r0.data.named.irds import open_ir_dataset
    from r0.data.named.sets import of_hub

    return of_hub(HubName.parse(text), preferred) if text.startswith(HUB) else open_ir_dataset(text)


def _of_folder(key: str, text: str) -> tuple[Path, store.Facts] | None:
    """The entry of a folder that is not BEIR's; None if there is none, or r0 does not know what it is."""
    path = Path(text)
    if path.is_file() or "{}" in text or (path.is_dir() and folder_file(path, "corpus").is_file()):
        return None
    folder, words = path, tuple[str, ...]()
    while not folder.is_dir() and len(words) < 2:  # a subset, a split or both behind the folder
        folder, words = folder.parent, (folder.name, *words)
    if folder == Path() or not folder.is_dir() or (words and is_data(words[-1])):
        return None
    from r0.data.named.folders import open_folder
    from r0.data.named.sets import of_folder

    found = open_folder(folder)
    if found is None or (words and not found.is_declared):
        return None
    try:
        return of_folder(found, words, "train")
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _content(entry: Path) -> Path:
    rows = entry / store.ROWS
    return rows if rows.is_file() else entry


def _judgements(text: str, folder: Path) -> Path:
    """The judgements of a BEIR folder: of its only split, or of test.

    Raises:
        UserError: there are none, or none of these.
    """
    there = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
    if not there:
        raise UserError(f"qrels: {text} has no judgements; give a file")
    if len(there) > 1 and "test" not in there:
        raise UserError(f"qrels: {text} has judgements of {', '.join(there)}; add one of them to the name, behind a slash")
    return find_qrels("test" if "test" in there else there[0], folder)


def _with_only_split(config: Config, path: str) -> Config:
    """``qrels`` as the only split of a folder, if the configuration has this key and it was not given."""
    there = [one.stem for one in (Path(path) / "qrels").glob("*.tsv")]
    if len(there) != 1 or "qrels" not in type(config).model_fields or "qrels" in config.model_fields_set:
        return config
    return config if getattr(config, "qrels") in (None, there[0]) else with_value(config, "qrels", there[0])  # noqa: B009


def _counted(facts: store.Facts) -> str:
    """What is in an entry, in words."""
    if "rows" in facts:
        return f"{facts['rows']} rows" + (f" of {facts['split']}" if facts.get("split") else "")
    judged = ", ".join(f"{split} {count}" for split, count in sorted(facts["judgements"].items()))
    lacking = f" ({facts['lacking']} is not there)" if facts.get("lacking") else ""
    return f"{facts['documents']} documents, {facts['queries']} queries, judgements: {judged or 'none'}{lacking}"


def _at(values: dict[str, Any], name: str) -> Any:
    first, _, rest = name.partition(".")
    value = values.get(first)
    return _at(value, rest) if rest and isinstance(value, dict) else None if rest else value
