"""The validation side of a fine-tuning's data: a file, a share of the training data, or rows of the built-in task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from r0.config import FinetuneConfig
from r0.data.groups import by_query
from r0.data.hashes import query_hash
from r0.data.jsonl import BadLines
from r0.data.labelled import BUILTIN, TEACHERS, Labelled, LabelledKind, QueryPlaces, builtin_labelled
from r0.data.source import held_out


@dataclass(frozen=True)
class Side:
    """The validation side: what its loss is made of, and its documents by query, with what the data says of them."""

    found: list[Labelled] = field(default_factory=list)
    queries: list[Labelled] = field(default_factory=list)
    places: QueryPlaces = field(default_factory=QueryPlaces)


def validation_side(
    config: FinetuneConfig,
    kind: LabelledKind | None,
    read: Callable[[Path, LabelledKind, BadLines], Iterator[Labelled]],
    training: Callable[[BadLines], Iterator[Labelled]],
) -> tuple[Side, BadLines]:
    """The validation side and its bad lines.

    Args:
        config: of the fine-tuning.
        kind: of the validation data; None: there is none.
        read: reads a file of a kind.
        training: reads the training data, of the first epoch.

    Raises:
        UserError: a bad line.
    """
    bad = BadLines(config.skip_bad)
    if kind is None:
        return Side(), bad
    if config.validation_share:
        found = _share(config, training)
    elif config.validation == BUILTIN:
        rows = config.builtin_rows
        found = list(builtin_labelled(kind, config.seed, range(rows, rows + max(8, rows // 10))))
    else:
        found = list(read(Path(str(config.validation)), kind, bad))
    queries = by_query(found)
    side = Side(found if kind in TEACHERS else queries, queries)
    for one in queries:
        side.places.add(one)
    return side, bad


def _share(config: FinetuneConfig, training: Callable[[BadLines], Iterator[Labelled]]) -> list[Labelled]:
    """The training data of the queries that validate. Bad lines are said where all of it is read."""
    skip = BadLines(config.skip_bad)
    hashes_N = np.array([query_hash(one.query) for one in training(skip)], np.uint64)
    held = set(hashes_N[held_out(hashes_N, config.validation_share)].tolist())
    return [one for one in training(BadLines(skip.skip)) if query_hash(one.query) in held]
