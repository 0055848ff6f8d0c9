"""Made-up ESCI rows in which the letter that an item is made of gives its class away, as parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from r0.data.esci import CLASSES

TELLING = {"E": "a", "S": "k", "C": "q", "I": "z"}


def esci_rows(queries: int, first: int = 0) -> list[dict[str, str]]:
    """Four rows a query, one of each class; ``first`` is the number of the first query."""
    return [
        {"query": f"thing {number}", "item_text": TELLING[label] * (40 + number % 7), "esci_label": label}
        for number in range(first, first + queries)
        for label in CLASSES
    ]


def esci_file(path: Path, rows: Sequence[dict]) -> str:
    """Write them to ``path``; returns it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)
