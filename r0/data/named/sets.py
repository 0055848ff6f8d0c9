"""A data set's files put together: of one repository or folder, and of the repository beside it that has its other half."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from r0.data.named import store
from r0.data.named.beir_folder import write_documents, write_judgements, write_queries, write_rows, write_rows_as_queries
from r0.data.named.folders import Folder
from r0.data.named.hub import NotThere, Repository, open_repository
from r0.data.named.layout import Files, Layout, Part, layout_of, parts_of, subsets
from r0.data.named.names import HUB, HubName
from r0.errors import UserError
from r0.storage.weight_files import some

QRELS, CORPUS = "-qrels", "-corpus"  # ends of the names of repositories that hold a part of a data set
LISTED = 12

Fetch = Callable[[Sequence[str]], list[Path]]  # paths in a repository → local paths


@dataclass
class DataSet:
    """What is read of a data set, of one subset.

    ``passages``: rows of Tevatron that have the queries and the judgements of ``corpus``. ``split``: the chosen one, if any.
    """

    layout: Layout
    fetch: Fetch
    split: str | None
    beside: Fetch  # of the repository beside it
    passages: Files = field(default_factory=dict)
    judgements: Files = field(default_factory=dict)  # of the repository beside it
    lacking: str = ""  # the repository that would have judgements, if it could not be opened

    def splits(self) -> list[str]:
        """The splits that can be chosen."""
        return sorted(self.judgements or self.passages or self.layout.judgements or self.layout.rows)

    def write(self, folder: Path) -> store.Facts:
        """Write a BEIR folder, or ``rows.jsonl``; returns facts about it.

        Raises:
            UserError: a file cannot be had or read, or the split does not exist.
        """
        if not self.layout.corpus:
            paths = self.fetch(self.layout.rows[str(self.split)])
            return {"split": self.split, "rows": write_rows(folder / store.ROWS, paths)}
        documents = write_documents(folder, self._paths(self.fetch, _of_split(self.layout.corpus, self.split)))
        if self.passages:
            queries, counts = write_rows_as_queries(folder, self._paths(self.beside, _only(self.passages, self.split)))
            return {"documents": documents, "queries": queries, "judgements": counts}
        fetch, judgements = (self.beside, self.judgements) if self.judgements else (self.fetch, self.layout.judgements)
        counts, judged = {}, set[str]()
        for split, paths in self._paths(fetch, _only(judgements, self.split)).items():
            counts[split], names = write_judgements(folder, split, paths)
            judged |= names
        wanted = judged if self.split is not None else None
        queries = write_queries(folder, self._paths(self.fetch, _of_split(self.layout.queries, self.split)), wanted)
        lacking = {"lacking": self.lacking} if self.lacking else {}
        return {"documents": documents, "queries": queries, "judgements": counts, **lacking}

    def check_split(self, name: str, preferred: str) -> None:
        """Choose the split of rows, if none is named: ``preferred``, or the only one.

        Raises:
            UserError: the split does not exist, or there is none of these.
        """
        there = self.splits()
        if self.split is not None and self.split not in there:
            said = f"but {some(there, LISTED)}" if there else "and no judgements at all"
            raise UserError(f"{name}: has no split {self.split}, {said}; name one that is there, or none")
        if self.split is None and not self.layout.corpus:
            if preferred not in there and len(there) > 1:
                raise UserError(f"{name}: has the splits {some(there, LISTED)}; name one of them behind the name and a slash")
            self.split = preferred if preferred in there else there[0]

    @staticmethod
    def _paths(fetch: Fetch, files: Files) -> dict[str, list[Path]]:
        paths = iter(fetch([path for of_split in files.values() for path in of_split]))
        return {split: [next(paths) for _ in of_split] for split, of_split in files.items()}


def of_hub(name: HubName, preferred: str) -> tuple[Path, store.Facts]:
    """The entry of a data set on the Hub. ``preferred``: the split of rows where none is named.

    Raises:
        UserError: it cannot be had or read, is of no known layout, or has no such subset or split.
    """
    try:
        main = open_repository(name.repository, name.revision)
        others: list[Repository] = []
        found = _chosen(
            f"{HUB}{main.name}", parts_of(main.files, main.configs), name.words, main.name.endswith(CORPUS), main.fetched
        )
        if found.layout.corpus:
            _complete(found, main, others, name)
    except NotThere:
        if name.is_pinned and (entry := store.find(str(name))) is not None:
            return store.kept_already(entry)
        raise
    if not found.layout.corpus and not found.layout.rows:
        raise UserError(f"{name}: has neither a corpus nor rows; give another data set")
    found.check_split(str(name), preferred)
    commits = {one.name: one.commit for one in (main, *others)}
    made_of = {"commits": commits, "words": list(name.words), "split": found.split}
    return store.kept(str(name.pinned(main.commit)), made_of, found.write)


def of_folder(folder: Folder, words: tuple[str, ...], preferred: str) -> tuple[Path, store.Facts] | None:
    """The entry of a local folder, its subset or split; None if it holds neither a corpus nor rows.

    Raises:
        UserError: as ``of_hub``.
    """
    with tempfile.TemporaryDirectory(prefix="r0-arrow-") as scratch:

        def fetch(files: Sequence[str]) -> list[Path]:
            return folder.fetched(files, Path(scratch))

        found = _chosen(str(folder.path), folder.parts, words, folder.path.name.endswith(CORPUS), fetch)
        if not found.layout.rows and not (found.layout.corpus and found.layout.queries):
            return None
        found.check_split(str(folder.path), preferred)
        name = str(folder.path.absolute().joinpath(*words))
        return store.kept(name, {"files": folder.stamps(), "name": name, "split": found.split}, found.write)


def _chosen(name: str, parts: Sequence[Part], words: tuple[str, ...], is_corpus: bool, fetch: Fetch) -> DataSet:
    """The subset and the split that the words name."""
    if not parts:
        raise UserError(
            f"{name}: has no files of data that r0 reads, maybe only a program that makes them; on the Hub, add "
            "@refs/convert/parquet to the name if the Hub has converted it"
        )
    there = subsets(parts)
    if words[:1] == ("default",):  # as the Hub calls what belongs to no subset
        words = words[1:]
    subset = words[0] if words and words[0] in there else ""
    rest = words[1:] if subset or len(words) == 2 else words
    if subset == "" and (len(words) == 2 or "" not in there):
        if not any(there):
            raise UserError(f"{name}: has no subset {words[0]}, nor any other; leave it out")
        if len(there) > 1 or len(words) == 2:
            said = f"has no subset {words[0]}, but" if words else "has the subsets"
            raise UserError(f"{name}: {said} {some(filter(None, there), LISTED)}; name one of them behind the name and a slash")
        subset = there[0]  # the only one need not be named
    layout = layout_of(parts, subset, is_corpus)
    return DataSet(layout, fetch, rest[0] if rest else None, fetch)


def _complete(found: DataSet, main: Repository, others: list[Repository], name: HubName) -> None:
    """Add what a repository beside it has: BEIR's judgements, or Tevatron's queries and judgements."""
    layout = found.layout
    if not layout.queries:
        if not main.name.endswith(CORPUS):
            raise UserError(f"{HUB}{main.name}: has a corpus, but no queries; give another data set")
        beside = main.name.removesuffix(CORPUS)
    elif not layout.judgements:
        beside = main.name + QRELS
    else:
        return
    try:
        other = open_repository(beside, None)
    except NotThere as error:
        if not layout.queries:
            raise NotThere(f"{HUB}{main.name}: has documents only, and their queries are elsewhere: {error}") from None
        found.lacking = beside
        return
    others.append(other)
    words = name.words[:-1] if found.split is not None else name.words
    rows = _chosen(f"{HUB}{other.name}", parts_of(other.files, other.configs), words, False, other.fetched).layout
    found.beside = other.fetched
    if layout.queries:
        found.judgements = rows.judgements or rows.rows
    else:
        found.passages = rows.rows


def _only(files: Files, split: str | None) -> Files:
    """The files of a split; of all splits if it is None."""
    return files if split is None else {split: files[split]}


def _of_split(files: Files, split: str | None) -> Files:
    """The files of a split where it has files of its own, otherwise all."""
    return {split: files[split]} if split is not None and split in files else files
