"""Where corpus, queries, judgements and rows are in a repository or folder, by its card and by the names of its files. Pure.

Known layouts:

* BEIR on the Hub: configurations ``corpus`` and ``queries`` (parquet; before, ``corpus.jsonl.gz`` and ``queries.jsonl.gz``);
  the judgements are ``SPLIT.tsv`` in a repository of its own, ``…-qrels``.
* MTEB: configurations ``corpus``, ``queries`` and ``default`` or ``qrels``; with subsets ``de-corpus``, ``de-queries``,
  ``de-qrels``, or ``corpus-de`` and so on. Splits may have corpora and queries of their own.
* Tevatron: rows ``SPLIT.jsonl.gz``, the corpus in a repository of its own, ``…-corpus``; a configuration a subset.
* A BEIR folder, and folders of ``datasets``: the same by their file names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from r0.data.compressed import SUFFIXES

CORPUS, QUERIES, JUDGEMENTS, ROWS, UNREAD = "corpus", "queries", "judgements", "rows", "unread"
FOLDER_MARK = "/"  # ends the path of a folder that `datasets` saved, which is read as a file is
_ROLES = {
    "corpus": CORPUS, "queries": QUERIES, "query": QUERIES, "qrels": JUDGEMENTS,
    "top_ranked": UNREAD, "instruction": UNREAD, "instructions": UNREAD, "qrel_diff": UNREAD,  # MTEB's
}  # fmt: skip
_DEFAULT = "default"
_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_NO_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json", "package.json"}
_SHARD = re.compile(r"[-_.](\d{5})-of-(\d{5})$")
_SPLITS = {"train", "training", "test", "dev", "validation", "val", "valid", "eval", "trial"}

Files = dict[str, list[str]]  # of a role, by split


class Part(NamedTuple):
    """A file of data with its configuration and its split."""

    config: str
    split: str
    path: str


@dataclass
class Layout:
    """The files of one subset, by split."""

    corpus: Files = field(default_factory=dict)
    queries: Files = field(default_factory=dict)
    judgements: Files = field(default_factory=dict)
    rows: Files = field(default_factory=dict)

    @property
    def splits(self) -> list[str]:
        """The names of the splits that can be chosen."""
        return sorted(self.judgements or self.rows)


def parts_of(files: Iterable[str], configs: Sequence[Mapping[str, Any]] = ()) -> list[Part]:
    """The files of data with their configurations and splits: as the card says, else by their names.

    Args:
        files: all paths of the repository.
        configs: ``configs`` of the card.
    """
    known = sorted(filter(is_data, files))
    stated = [part for config in configs for part in _stated(config, known)]
    return stated or [part for path in known if (part := _by_name(path)) is not None]


def is_data(path: str) -> bool:
    """Whether a file can hold rows, by its name."""
    name = path.rstrip(FOLDER_MARK).rpartition("/")[2]
    if any(word.startswith(".") for word in path.split("/")) or name in _NO_DATA:
        return False
    return path.endswith(FOLDER_MARK) or _stem(name) is not None


def subsets(parts: Iterable[Part]) -> list[str]:
    """The names of the subsets; an empty one for what belongs to none."""
    return sorted({_role(part.config)[1] for part in parts})


def layout_of(parts: Sequence[Part], subset: str, is_corpus: bool = False) -> Layout:
    """The files of a subset.

    Args:
        parts: all files.
        subset: its name; empty: what belongs to none.
        is_corpus: rows are documents (a repository ``…-corpus``).
    """
    found: dict[str, Files] = {role: {} for role in (CORPUS, QUERIES, JUDGEMENTS, ROWS, UNREAD)}
    shared: dict[str, Files] = {role: {} for role in found}
    for part in parts:
        role, name = _role(part.config)
        if name == subset:
            found[role].setdefault(part.split, []).append(part.path)
        elif not name:
            shared[role].setdefault(part.split, []).append(part.path)
    corpus, queries = (found[role] or shared[role] for role in (CORPUS, QUERIES))
    judgements, rows = found[JUDGEMENTS], found[ROWS]
    if is_corpus and not corpus:
        corpus, rows = rows, {}
    if corpus and queries and rows and not judgements:  # MTEB: the judgements are the default configuration
        judgements, rows = rows, {}
    return Layout(corpus, queries, judgements, {} if corpus else rows)


def missing_shards(paths: Iterable[str]) -> list[str]:
    """The numbered files (``-00001-of-00005``) that are not among ``paths``, by the pattern of their names."""
    seen: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        stem = _stem(path)
        if stem is not None and (match := _SHARD.search(stem)):
            seen.setdefault((stem[: match.start()], int(match[2])), set()).add(int(match[1]))
    return [f"{stem}-{at:05}-of-{of:05}" for (stem, of), there in seen.items() for at in range(of) if at not in there]


def _role(config: str) -> tuple[str, str]:
    """The role of a configuration, and the subset it belongs to."""
    if config in _ROLES:
        return _ROLES[config], ""
    for sign in ("-", "_"):
        head, _, tail = config.rpartition(sign)
        if head and tail in _ROLES:
            return _ROLES[tail], head
        head, _, tail = config.partition(sign)
        if tail and head in _ROLES:
            return _ROLES[head], tail
        if tail and head == _DEFAULT:
            return ROWS, tail
    return ROWS, "" if config == _DEFAULT else config


def _stated(config: Mapping[str, Any], files: Sequence[str]) -> Iterator[Part]:
    """The files that an entry of a card's ``configs`` names."""
    name, base = str(config.get("config_name", _DEFAULT)), str(config.get("data_dir") or "").strip("./")
    prefix = f"{base}/" if base else ""
    given = config.get("data_files")
    if given is None:
        for path in files:
            if base and path.startswith(prefix) and (part := _by_name(path.removeprefix(prefix))) is not None:
                yield Part(name, part.split, path)
        return
    if isinstance(given, Mapping):
        given = [{"split": split, "path": paths} for split, paths in given.items()]
    for entry in given if isinstance(given, list) else [given]:
        split, patterns = (entry.get("split", "train"), entry.get("path")) if isinstance(entry, Mapping) else ("train", entry)
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            wanted = _glob(prefix + str(pattern).removeprefix("./"))
            yield from (Part(name, str(split), path) for path in files if wanted.fullmatch(path))


def _glob(pattern: str) -> re.Pattern[str]:
    """A pattern of a card; ``*`` stays in a folder, ``**`` does not."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(word, re.escape(word)) for word in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern)))


def _by_name(path: str) -> Part | None:
    """A file's configuration and split by its path; None for what the Hub converted in part only."""
    *folders, name = path.rstrip(FOLDER_MARK).split("/")
    stem = name if path.endswith(FOLDER_MARK) else _SHARD.sub("", _stem(name) or "")
    if stem.isdigit() and folders:
        stem = folders.pop()
    if stem.startswith("partial-"):
        return None
    if folders[:1] == ["data"]:
        del folders[0]
    if stem in _ROLES:
        return Part("-".join(folders if folders[-1:] == [stem] else [*folders, stem]), stem, path)
    last = re.split(r"[-_]", stem)[-1]
    return Part("-".join(folders) or _DEFAULT, last if last in _SPLITS else stem, path)


def _stem(path: str) -> str | None:
    """A path without the endings of its format and compression; None if its format is not read."""
    for suffix in SUFFIXES:
        path = path.removesuffix(suffix)
    return next((path.removesuffix(ending) for ending in _FORMATS if path.endswith(ending)), None)
