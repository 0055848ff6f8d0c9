"""Reciprocal rank fusion of runs (Cormack, Clarke & Büttcher, 2009): the score of a document is the sum of 1 / (k + rank) over
the runs that have it.

Ranks, from 1, are those in trec_eval's order of each run; scores of runs are not compared. Equal sums keep the order of the first
run that has one of the documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path

from r0.config import FuseConfig
from r0.data.jsonl import BadLines
from r0.data.runfile import check_tag, given_order, read_run, write_run
from r0.storage.files import refuse_inputs


@dataclass(frozen=True, slots=True)
class Fused:
    """The result of ``fuse``."""

    path: Path
    queries: int
    candidates: int
    partial: int  # queries that are missing from at least one run
    bad: BadLines


def fuse(config: FuseConfig) -> Fused:
    """Fuse the runs and write the result; queries are in the order of the runs.

    Raises:
        UserError: a run cannot be used, or the result cannot be written.
    """
    check_tag(config.tag)
    bad, paths = BadLines(config.skip_bad), [Path(path).expanduser() for path in config.runs]
    refuse_inputs(Path(config.output).expanduser(), paths)
    runs = [read_run(path, bad) for path in paths]
    queries = list(dict.fromkeys(query for run in runs for query in run))
    lists = [(query, fused([run[query] for run in runs if query in run], config.k)[: config.depth]) for query in queries]
    path = Path(config.output).expanduser()
    write_run(path, lists, config.tag)
    partial = sum(any(query not in run for run in runs) for query in queries)
    return Fused(path, len(lists), sum(len(documents) for _, documents in lists), partial, bad)


def fused(lists: Sequence[Mapping[str, float]], k: float) -> list[tuple[str, float]]:
    """(document id, score), best first, from the scores of one query's documents in several runs."""
    shares: dict[str, list[float]] = {}
    for scores in lists:
        for rank, document in enumerate(given_order(scores), 1):
            shares.setdefault(document, []).append(1.0 / (k + rank))
    # fsum is exact, so the order of the runs does not change a sum; the sort is stable.
    return sorted(((document, fsum(parts)) for document, parts in shares.items()), key=lambda one: -one[1])
