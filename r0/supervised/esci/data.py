"""The data of an ESCI run: checked by the driver, stored as Arrow files in the run directory, memory-mapped by the ranks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset

from r0.config import EsciConfig
from r0.data.esci import WORDS, EsciRow, Selection, read_esci
from r0.data.hashes import Shuffle, hash_key, query_hash
from r0.data.jsonl import BadLine, BadLines
from r0.data.source import held_out
from r0.errors import UserError
from r0.storage.files import whole_folder
from r0.supervised.esci.prompt import EsciPrompter

TRAIN, HELDOUT, COUNTS = "train.arrow", "heldout.arrow", "counts.json"
COLUMNS = pa.schema({"number": pa.int64(), "query": pa.large_string(), "item": pa.large_string(), "label": pa.int8()})
ROWS_A_BATCH = 4096


@dataclass(frozen=True)
class Counts:
    """Counts of the prepared data: training rows, held-out rows and queries; and notes to print."""

    rows: int = 0
    heldout_rows: int = 0
    heldout_queries: int = 0
    notes: tuple[str, ...] = field(default=())


def prepared(folder: Path) -> Counts | None:
    """The counts of the data that ``Preparation.write`` wrote to ``folder``; None if it is incomplete."""
    try:
        values = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
        return Counts(**{**values, "notes": tuple(values["notes"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def checked_rows(path: Path, selection: Selection, prompter: EsciPrompter, bad: BadLines, title: str = "") -> Iterator[EsciRow]:
    """The selected rows of a file that have a prompt; others go to ``bad``.

    Raises:
        UserError: as ``read_esci``; a query that leaves no room for an item, where ``bad`` does not skip it.
    """
    for row in read_esci(path, bad, title, selection):
        try:
            prompter.check_query(row.query)
        except BadLine as error:
            bad.refuse(path, row.number, str(error))
            continue
        yield row


class Preparation:
    """Reads the file twice: ``check`` looks at everything and writes nothing, ``write`` keeps what was found good."""

    def __init__(self, config: EsciConfig, prompter: EsciPrompter):
        self._config, self._prompter = config, prompter
        self._path, self._selection = Path(config.data).expanduser(), Selection(**config.selection())
        self._held: frozenset[int] = frozenset()  # hashes of the held-out queries

    def check(self) -> Counts:
        """Read everything, and choose the held-out queries: by their hashes, so that a query is never on both sides.

        Raises:
            UserError: the file or a row is bad; no row, or too few for one update.
        """
        bad, queries, classes = BadLines(self._config.skip_bad), Counter[int](), Counter[int]()
        for row in checked_rows(self._path, self._selection, self._prompter, bad, f"reading {self._path.name}"):
            queries[query_hash(row.query)] += 1
            classes[row.label] += 1
        if not queries:
            raise UserError(f"{self._path}: no row can be used; the first of {bad.count} that were skipped is {bad.first[0]}")
        hashes = np.fromiter(queries, np.uint64, len(queries))
        self._held = frozenset(hashes[held_out(hashes, self._config.heldout_share)].tolist())
        held = sum(queries[one] for one in self._held)
        rows, size = queries.total() - held, self._config.batch_size
        if rows < size:
            raise UserError(f"batch_size: {rows} training rows are fewer than one update of {size}; lower it, or heldout_share")
        absent = [word for place, word in enumerate(WORDS) if not classes[place]]
        notes = [f"no row has the label {word}" for word in absent] + [said for said in (bad.summary(),) if said]
        return Counts(rows, held, len(self._held), tuple(notes))

    def write(self, folder: Path, counts: Counts) -> None:
        """Make ``folder`` with the data of ``check`` in it; it is whole or not there."""
        rows = checked_rows(
            self._path, self._selection, self._prompter, BadLines(self._config.skip_bad), f"copying {self._path.name}"
        )
        with whole_folder(folder) as partial:
            with _ArrowWriter(partial / TRAIN) as train, _ArrowWriter(partial / HELDOUT) as heldout:
                for row in rows:
                    (heldout if query_hash(row.query) in self._held else train).add(row)
            (partial / COUNTS).write_text(json.dumps(asdict(counts)), encoding="utf-8")


class _ArrowWriter:
    """Writes an Arrow file, some thousand rows at a time."""

    def __init__(self, path: Path):
        self._sink = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._sink, COLUMNS)
        self._rows: list[EsciRow] = []

    def add(self, row: EsciRow) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        self._stream.write_batch(pa.RecordBatch.from_pylist([row._asdict() for row in self._rows], COLUMNS))
        self._rows = []

    def __enter__(self) -> _ArrowWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._flush()
        self._stream.close()
        self._sink.close()


class Rows:
    """The memory-mapped rows of one Arrow file."""

    def __init__(self, path: Path):
        self._table = Dataset.from_file(str(path))

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, place: int) -> EsciRow:
        return EsciRow(**self._table[place])

    def column(self, name: str) -> list:
        """One column of all rows."""
        return list(self._table[name])


class ShuffledRows:
    """The rows of all steps: each epoch is shuffled by (seed, epoch) and truncated to whole updates.

    Args:
        rows: the training rows.
        seed: of the order.
        batch_size: rows of an update.
        steps: updates of the run.
    """

    def __init__(self, rows: Rows, seed: int, batch_size: int, steps: int):
        self._rows, self._seed = rows, seed
        self._epoch_rows, self._length = len(rows) // batch_size * batch_size, batch_size * steps

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> EsciRow:
        epoch, place = divmod(index, self._epoch_rows)
        return self._rows[Shuffle(len(self._rows), hash_key(self._seed, "order", epoch))[place]]
