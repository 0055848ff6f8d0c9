"""Mining: rank the corpus for every query that has positives, take negatives from the ranks, write them."""

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
    """Write the files of all epochs to ``folder``, whole or not at all; returns the figures of each epoch.

    Args:
        config: which ranks, how many, what margin.
        collection: queries and documents.
        ranked: the best documents for each query, in their order.
        folder: to make.

    Raises:
        UserError: an epoch has no negative at all; the file system refuses.
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
            remedy = "begin them earlier, lower the margin, or give a random_share"
            raise UserError(f"ranks: {empty} has no negative for any query (their lists may be shorter); {remedy}")
        write_json(partial / STATISTICS, figures)
    return figures
