"""Folders of ``datasets.save_to_disk`` and of parquet, and downloaded repositories: the files in them, as files r0 reads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r0.data.named.hub import CARD, configs_of
from r0.data.named.layout import FOLDER_MARK, Part, is_data, layout_of, missing_shards, parts_of, subsets
from r0.data.row_files import plain
from r0.errors import UserError, reason

_SAVED = ("state.json", "dataset_info.json")  # in each folder of Dataset.save_to_disk
_DEEPEST = 3
_MOST_FILES = 20_000  # a folder of more is no data set
_ROWS_A_BATCH = 1024


@dataclass(frozen=True)
class Folder:
    """A local folder with the paths of its files; the path of a folder that ``datasets`` saved ends with ``FOLDER_MARK``."""

    path: Path
    parts: tuple[Part, ...]
    is_declared: bool  # by a card with configurations, or by ``DatasetDict.save_to_disk``

    def stamps(self) -> list[tuple[str, int, int]]:
        """Path, size and time of change of all files that are read: another content has others."""
        files: list[Path] = []
        for part in self.parts:
            path = self.path / part.path.strip(FOLDER_MARK)
            files += path.iterdir() if part.path.endswith(FOLDER_MARK) else [path]
        return sorted((str(file.relative_to(self.path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files)

    def fetched(self, files: Sequence[str], scratch: Path) -> list[Path]:
        """The paths of files that r0 reads; what ``datasets`` saved is written into ``scratch`` as JSON lines.

        Raises:
            UserError: it cannot be read.
        """
        if lacking := missing_shards(files):
            raise UserError(f"{self.path}: {lacking[0]} is missing; download the data set again")
        return [
            _unpacked(self.path / file.strip(FOLDER_MARK), scratch) if file.endswith(FOLDER_MARK) else self.path / file
            for file in files
        ]


def open_folder(path: Path) -> Folder | None:
    """The folder, if it is one of ``datasets``, of parquet, or a downloaded repository; None for any other, such as BEIR's."""
    files = _files(path)
    configs = configs_of(path) if (path / CARD).is_file() else ()
    parts = parts_of(files, configs)
    known = any(file.endswith((FOLDER_MARK, ".parquet")) for file in files) or bool(configs)
    known = known or any((layout := layout_of(parts, name)).corpus and layout.queries for name in subsets(parts))
    return Folder(path, tuple(parts), bool(configs) or (path / "dataset_dict.json").is_file()) if parts and known else None


def _files(root: Path) -> list[str]:
    """The files of data in a folder, relative to it."""
    found = []
    visited = 0
    for here, folders, names in os.walk(root):
        visited += len(names)
        if visited > _MOST_FILES:
            return []
        inner = Path(here).relative_to(root)
        if all((Path(here) / name).is_file() for name in _SAVED):
            found.append(FOLDER_MARK if inner == Path() else inner.as_posix() + FOLDER_MARK)
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if len(inner.parts) < _DEEPEST else []
        found += [(inner / name).as_posix() for name in sorted(names) if is_data(name)]
    return found


def _unpacked(folder: Path, scratch: Path) -> Path:
    """The rows of a folder of ``Dataset.save_to_disk`` as a file of JSON lines."""
    from datasets import Dataset, load_from_disk

    file = scratch / f"{len(list(scratch.iterdir()))}.jsonl"
    try:
        data = load_from_disk(str(folder))
    except Exception as error:  # of datasets and of Arrow, of many kinds
        raise UserError(
            f"{folder}: cannot be read as a folder of datasets.save_to_disk ({reason(error)}); save it again"
        ) from None
    if not isinstance(data, Dataset):
        raise UserError(f"{folder}: is no folder of Dataset.save_to_disk; give one of its splits")
    with file.open("w", encoding="utf-8") as stream:
        for batch in data.with_format("arrow").iter(_ROWS_A_BATCH):
            stream.writelines(json.dumps(row, ensure_ascii=False, default=plain) + "\n" for row in batch.to_pylist())
    return file
