"""Arrow files of ``finetune``: the columns that each loss reads, and a writer that buffers a thousand rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from r0.data.groups import Shape

ROWS_A_BATCH = 1000


def columns(shape: Shape, size: int) -> pa.Schema:
    """The columns of examples of a shape; ``size`` is the number of documents in tuples and scored groups."""
    text, number = pa.string(), pa.float64()
    if shape == Shape.PAIR:
        return pa.schema({"query": text, "document": text, "label": number})
    if shape == Shape.LIST:
        return pa.schema({"query": text, "documents": pa.list_(text), "labels": pa.list_(number)})
    found = {"query": text, "positive": text, **{f"negative_{place}": text for place in range(1, size)}}
    return pa.schema({**found, "label": pa.list_(number)} if shape == Shape.SCORED else found)


@contextmanager
def writer(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """Yields a function that writes rows to an Arrow file and returns their number."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:

        def write(rows: Iterator[dict[str, Any]]) -> int:
            count = 0
            while chunk := list(islice(rows, ROWS_A_BATCH)):
                stream.write_batch(pa.RecordBatch.from_pylist(chunk, schema))
                count += len(chunk)
            return count

        yield write
