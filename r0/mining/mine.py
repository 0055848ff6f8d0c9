"""Mining: ranks the corpus for each query with positives, selects negatives, and writes the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r0.config import MineConfig
from r0.errors import UserError
from r0.mining.collection import Collection
from r0.mining.files import STATISTICS, MinedFiles
from r0.mining.ranked import Ranked
from r0.mining.select import Selection
from r0.mining.statistics import Statistics
from r0.runs.live import progress
from r0.storage.files import whole_folder, write_json


def mine(config: MineConfig, collection: Collection, ranked: Iterator[Ranked], folder: Path) -> list[dict[str, Any]]:
    """Atomically write the files of all epochs to ``folder``; return the statistics of each epoch.

    Args:
        config: the configuration.
        collection: queries and documents.
        ranked: the best documents for each query, in the order of the queries.
        folder: the folder to create.

    Raises:
        UserError: an epoch has no negative at all, or a file cannot be written.
    """
    selection, documents, queries = Selection(config, collection), collection.documents, collection.queries
    counted = [Statistics(text, config.negatives) for text in config.ranks]
    with whole_folder(folder) as partial:
        files = MinedFiles(partial, len(counted), documents)
        try:
            for query, best in zip(queries, progress(ranked, "mining", len(queries)), strict=True):
                for epoch, statistics in enumerate(counted, 1):
                    found = selection.select(query, best, epoch)
                    statistics.add(found)
                    if found.negatives:
                        files.add(epoch, found)
        finally:
            files.close()
        figures = [statistics.figures() for statistics in counted]
        empty = next((one["ranks"] for one in figures if not one["negatives"]), None)
        if empty is not None:
            remedy = "start the range earlier, lower the margin, or set random_share"
            raise UserError(f"ranks: {empty} has no negative for any query (their lists may be shorter); {remedy}")
        write_json(partial / STATISTICS, figures)
    return figures
