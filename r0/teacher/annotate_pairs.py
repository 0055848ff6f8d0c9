"""The (query, document) pairs to annotate, each once, with its label in the data."""

from __future__ import annotations

from collections.abc import Iterator

from r0.data.hashes import hash_key
from r0.data.index import RELEVANT, UNJUDGED, Rows
from r0.records import Answer, PointwiseTask
from r0.runs.live import progress


class Pairs:
    """The pairs of rows by key: a hash of query and document, independent of the file.

    Repeated pairs are dropped and counted in ``repeated``; the label of the first one is used.
    """

    def __init__(self, rows: Rows):
        self.rows, self.repeated = rows, 0
        self._row: dict[int, int] = {}
        for row in progress(range(len(rows)), f"reading {rows.name}"):
            task = self.task(row)
            if self._row.setdefault(hash_key(task.query, task.document), row) != row:
                self.repeated += 1

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[int]:
        """The keys in the order of the data."""
        return iter(self._row)

    def row(self, key: int) -> int | None:
        """The number of the pair's row; None if the data does not contain the pair."""
        return self._row.get(key)

    def task(self, row: int) -> PointwiseTask:
        """The texts of a row.

        Raises:
            UserError: a file changed since it was indexed.
        """
        task = self.rows.task(row)
        if not isinstance(task, PointwiseTask):
            raise TypeError(f"pairs are annotated, not {type(task).__name__}")
        return task

    def known(self, row: int) -> Answer | None:
        """The label of a row as an answer; None if it has none."""
        flags = int(self.rows.flags_N[row])
        return None if flags & UNJUDGED else Answer.YES if flags & RELEVANT else Answer.NO

    def summary(self) -> str:
        """A printable summary, with the skipped bad lines."""
        known = [self.known(row) for row in self._row.values()]
        parts = [f"{self.rows.name}: {len(self)} pairs, {known.count(Answer.YES)} labelled yes, {known.count(Answer.NO)} no"]
        if None in known:
            parts.append(f"{known.count(None)} without a label")
        if self.repeated:
            parts.append(f"{self.repeated} repeated pairs dropped")
        return "\n".join(filter(None, ["; ".join(parts), self.rows.bad.summary()]))
