"""Byte offsets of the lines of a BEIR folder's files by id, from one validating pass over ``corpus.jsonl`` or ``queries.jsonl``.

``corpus.jsonl`` has ``_id``, ``title``, ``text``; ``queries.jsonl`` has ``_id`` and ``text``. BRIGHT calls a document's text
``content`` and a query's ``query``. Every line is checked, but only the wanted ids are stored, as 64-bit hashes: 20 bytes per
document in memory; texts stay in their files.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from r0.data.compressed import SUFFIXES
from r0.data.fields import id_of, text_of, text_or_empty, value_of, with_title
from r0.data.hashes import query_hash, text_hash
from r0.data.index import FileRows
from r0.data.jsonl import BadLine, BadLines, Row, read_lines, readable_file


class Table(NamedTuple):
    """Locations of the wanted lines of a file, sorted by the hash of their id. ``hashes`` [n] are those of query texts, or
    empty.
    """

    ids: np.ndarray  # uint64 [n]
    offsets: np.ndarray  # int64 [n]
    lengths: np.ndarray  # int32 [n]
    hashes: np.ndarray  # uint64 [n or 0]

    def find(self, ids_M: np.ndarray) -> np.ndarray:
        """int64 [M]: the index of each id, −1 if it is missing."""
        if not len(self.ids):
            return np.full(len(ids_M), -1)
        at_M = np.minimum(np.searchsorted(self.ids, ids_M), len(self.ids) - 1)
        return np.where(self.ids[at_M] == ids_M, at_M, -1)

    def without_ids(self) -> Table:
        """The table without its ids, for when no more lookups are needed."""
        return self._replace(ids=self.ids[:0].copy())

    def nbytes(self) -> int:
        """Memory used by the table, in bytes."""
        return sum(values.nbytes for values in self)


def index_table(path: Path, wanted: np.ndarray, bad: BadLines, hash_text: bool = False) -> Table:
    """Index a file of ``_id`` and ``text`` in one pass: every line is checked, the ``wanted`` ids (hashes, uint64) are stored.

    Raises:
        UserError: the file cannot be used; or it has a bad line or a repeated id, and bad lines are not skipped.
    """
    readable_file(path, "a BEIR folder with corpus.jsonl, queries.jsonl and qrels/")
    needed = np.sort(wanted)
    seen, lines = array("Q"), array("i")
    ids, offsets, lengths, hashes = array("Q"), array("q"), array("i"), array("Q")
    for line in read_lines(path, bad, f"reading {path.name}"):
        try:
            hashed = text_hash(row_id(line.row))
            text = query_text(line.row) if hash_text else document_text(line.row)
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
            continue
        seen.append(hashed)
        lines.append(line.number)
        at = int(np.searchsorted(needed, np.uint64(hashed)))
        if at < len(needed) and int(needed[at]) == hashed:
            ids.append(hashed)
            offsets.append(line.offset)
            lengths.append(line.length)
            if hash_text:
                hashes.append(query_hash(text))
    _refuse_repeats(np.frombuffer(seen, np.uint64), np.frombuffer(lines, np.int32), path, bad)
    ids_n, first_n = np.unique(np.frombuffer(ids, np.uint64), return_index=True)
    hashes_n = np.frombuffer(hashes, np.uint64)
    return Table(
        ids_n,
        np.frombuffer(offsets, np.int64)[first_n],
        np.frombuffer(lengths, np.int32)[first_n],
        hashes_n[first_n] if hash_text else hashes_n.copy(),
    )


def document_text(row: Row) -> str:
    """``title. text``, joined as in production logs; only the text if there is no title. Null is empty.

    Raises:
        BadLine: ``text`` is missing, or one of the two is not a string.
    """
    key = "content" if "text" not in row and "content" in row else "text"
    value_of(row, key)
    return with_title(text_or_empty(row, "title"), text_or_empty(row, key))


def query_text(row: Row) -> str:
    """The text of a query.

    Raises:
        BadLine: it is missing, empty, or not a string.
    """
    return text_of(row, "query" if "text" not in row and "query" in row else "text")


def row_id(row: Row) -> str:
    """The id of a line: ``_id``, or ``id`` as in newer data sets.

    Raises:
        BadLine: it is missing or no id.
    """
    return id_of(row, "id" if "_id" not in row and "id" in row else "_id")


def folder_file(folder: Path, stem: str) -> Path:
    """The file of a BEIR folder with a name such as ``corpus``: JSON lines, compressed or not, or parquet. It may be missing."""
    plain = folder / f"{stem}.jsonl"
    others = (*(folder / f"{stem}.jsonl{suffix}" for suffix in SUFFIXES), folder / f"{stem}.parquet")
    return plain if plain.is_file() else next(filter(Path.is_file, others), plain)


class Texts:
    """The texts of a BEIR file, read on demand by their index in its table."""

    def __init__(self, path: Path, table: Table, queries: bool = False):
        self._file, self._table, self._queries = FileRows(path), table.without_ids(), queries

    def __getitem__(self, at: int) -> str:
        """The text of line ``at``: the plain text of a query, or a document with its title.

        Raises:
            UserError: the file changed since it was indexed.
        """
        row = self._file.row(int(self._table.offsets[at]), int(self._table.lengths[at]))
        try:
            return query_text(row) if self._queries else document_text(row)
        except BadLine:
            raise self._file.changed() from None

    @property
    def hashes(self) -> np.ndarray:
        """Hashes of the query texts: uint64 [n]; empty for documents."""
        return self._table.hashes

    def nbytes(self) -> int:
        """Memory used, in bytes."""
        return self._table.nbytes()


def _refuse_repeats(ids_n: np.ndarray, lines_n: np.ndarray, path: Path, bad: BadLines) -> None:
    repeated_n = np.ones(len(ids_n), bool)
    repeated_n[np.unique(ids_n, return_index=True)[1]] = False
    for number in lines_n[repeated_n].tolist():
        bad.refuse(path, number, 'this "_id" occurs twice')
