"""Labelled lists that a teacher scores: streamed on each pass, never held in memory, identified by a hash of their texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from r0.data.hashes import hash_key
from r0.data.jsonl import BadLines
from r0.data.labelled import BUILTIN, LabelBounds, Labelled, LabelledKind, builtin_labelled
from r0.data.labelled_rows import kind_of_labelled, read_labelled
from r0.errors import UserError


class LabelledLists:
    """The lists of a file or of the built-in task. One pass at the start validates them.

    Args:
        data: ``builtin``, or a JSONL file of groups or of positives and negatives.
        builtin_rows: number of lists of the built-in task; documents of the highest grade are positives.
        seed: seed of the built-in task.
        skip_bad: whether bad lines are skipped and counted.

    Raises:
        UserError: the file cannot be used, has a bad line (that is not skipped), or has no list with different labels.
    """

    def __init__(self, data: str, builtin_rows: int, seed: int, skip_bad: bool):
        self.name, self._builtin_rows, self._seed, self._skip_bad = data, builtin_rows, seed, skip_bad
        self._path = Path(data).expanduser()
        self._kind = LabelledKind.POSITIVES if data == BUILTIN else kind_of_labelled(self._path, skip_bad)
        if self._kind not in (LabelledKind.GROUPED, LabelledKind.POSITIVES):
            raise UserError(f"data: {data} contains {self._kind} data, but a teacher scores whole lists; give {_WANTED}")
        self.bad, self.keys, self.documents, self.alone = BadLines(skip_bad), set[int](), 0, 0
        for one in self._read(self.bad, f"reading {self._path.name}"):
            if _comparable(one):
                self.documents += len(one.documents) * (key_of(one) not in self.keys)
                self.keys.add(key_of(one))
            else:
                self.alone += 1
        if not self.keys:
            raise UserError(f"data: {data} has no query with a positive and a negative document; give {_WANTED}")

    def __iter__(self) -> Iterator[Labelled]:
        """The lists, in the order of the data, without those whose labels are all equal."""
        return filter(_comparable, self._read(BadLines(self._skip_bad)))

    def _read(self, bad: BadLines, title: str = "") -> Iterator[Labelled]:
        if self.name == BUILTIN:
            return builtin_labelled(self._kind, self._seed, range(self._builtin_rows))
        return read_labelled(self._path, self._kind, LabelBounds(), bad, title)

    def summary(self) -> str:
        """A printable summary, with the skipped bad lines."""
        said = f"{self.name}: {len(self.keys)} queries, {self.documents} documents"
        if self.alone:
            said += f"; {self.alone} queries dropped: no two of their documents differ in label"
        return "\n".join(filter(None, (said, self.bad.summary())))


_WANTED = 'lines of "query", "positive", "negative" or of "query", "hits"'


def key_of(one: Labelled) -> int:
    """A 64-bit hash of a query and its documents, in order."""
    return hash_key("labelled list", one.query, *one.documents)


def _comparable(one: Labelled) -> bool:
    return len(set(one.labels)) > 1
