"""The data of a fine-tuning: read and checked once by the driver, kept as Arrow files in the run directory, mapped by the ranks.

``data/train.arrow`` has the training examples in the columns that the loss reads, those of one epoch's file after another's
where every epoch has a file of its own. ``data/validation.arrow`` has the validation
documents by query, ``data/validation_loss.arrow`` the examples of which the validation loss is made.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from r0.config import FinetuneConfig
from r0.config.finetune import LOSSES
from r0.data.groups import SHAPES, Example, ExampleCounts, Shape, examples, target_labels, with_thirds_shuffled
from r0.data.hashes import hash_key
from r0.data.jsonl import BadLines
from r0.data.labelled import (
    BUILTIN,
    TEACHERS,
    LabelBounds,
    Labelled,
    LabelledKind,
    QueryPlaces,
    builtin_labelled,
    epoch_files,
)
from r0.data.labelled_rows import kind_of_labelled, read_labelled
from r0.data.row_keys import CONTRADICTION
from r0.errors import UserError
from r0.storage.files import whole_folder
from r0.supervised.finetune.arrow import columns, writer
from r0.supervised.finetune.validation_data import Side, validation_side

DEFAULT_LOSSES = {"pointwise": "pointwise_bce", "grouped": "pairwise_ranknet", "triplets": "margin_mse"}
TRAIN, VALIDATION, VALIDATION_LOSS, COUNTS = "train.arrow", "validation.arrow", "validation_loss.arrow", "counts.json"


@dataclass(frozen=True)
class Counts:
    """What the prepared data holds."""

    examples: int = 0
    validation_queries: int = 0
    validation_examples: int = 0
    notes: tuple[str, ...] = field(default=())  # what a person should know of it
    parts: tuple[int, ...] = field(default=())  # training examples of each epoch's file; ``examples`` are the fewest of them


@dataclass(frozen=True)
class Sources:
    """What is read: the kinds of both sides, and whether in-batch tuples have negatives of their own."""

    train: LabelledKind
    validation: LabelledKind | None
    negatives: bool


def check_loss(config: FinetuneConfig) -> tuple[FinetuneConfig, LabelledKind]:
    """The configuration with its loss, and the kind of the training data.

    Raises:
        UserError: no such loss for that kind of data; the file is of no known kind.
    """
    kind = _kind(config.data, config.data_type, config)
    loss = config.loss_type or DEFAULT_LOSSES.get(kind, "listwise_ce")
    if loss not in LOSSES[kind]:
        raise UserError(f"loss_type: {loss} is not for {kind} data ({config.data}); use one of {', '.join(LOSSES[kind])}")
    return config.model_copy(update={"loss_type": loss}), kind


def prepared(folder: Path) -> Counts | None:
    """What ``write`` left in ``folder``; None where it did not come to its end."""
    try:
        values = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
        return Counts(**{**values, "notes": tuple(values["notes"]), "parts": tuple(values["parts"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Preparation:
    """Reads both sides of the data. ``write`` may follow ``check``, which reads all and writes nothing.

    Args:
        config: with its loss (``check_loss``).
        kind: of the training data.
    """

    def __init__(self, config: FinetuneConfig, kind: LabelledKind):
        self._config, self._loss = config, str(config.loss_type)
        self._shape = SHAPES[self._loss]
        validation = config.validation
        validation_kind = None if validation is None else _kind(validation, config.validation_type, config)
        if config.validation_share:
            validation_kind = kind
        if validation_kind is not None and self._loss not in LOSSES[validation_kind]:
            fitting = ", ".join(name for name, names in LOSSES.items() if self._loss in names)
            raise UserError(f"validation: {validation} holds {validation_kind} data, and {self._loss} needs {fitting} data")
        self._files = [None] if config.data == BUILTIN else epoch_files(config.data)
        if len(self._files) > config.epochs and not config.max_steps:
            raise UserError(f"epochs: {config.epochs:g} are fewer than the files of data; use epochs={len(self._files)}")
        self._sources = Sources(kind, validation_kind, self._has_negatives(kind))

    def check(self) -> Counts:
        """Read everything.

        Raises:
            UserError: a bad line, a query on both sides, too few examples for one update.
        """
        left, bad = ExampleCounts(), BadLines(self._config.skip_bad)
        side, bad_side = self._validation()
        parts = tuple(sum(1 for _ in part) for part in self._training(left, bad, side.places))
        count = min(parts)
        if count < self._config.batch_size:
            size, said = self._config.batch_size, [left.summary(), CONTRADICTION if bad.noted(CONTRADICTION) else ""]
            why = f" ({'; '.join(filter(None, said))})" if any(said) else ""
            remedy = "lower it" if count else "give queries with documents of different labels"
            if not count and self._sources.train == LabelledKind.POSITIVES:
                remedy += ", or use loss_type=in_batch_negatives, which needs no negatives"
            raise UserError(f"batch_size: {count} training examples{why} are fewer than one update of {size}; {remedy}")
        notes = [note for note in (left.summary(), bad.summary(), bad_side.summary()) if note]
        if max(parts) > count:
            notes.append(f"the epochs' files give {', '.join(map(str, parts))} examples, and an epoch uses {count} of its own")
        return Counts(count, len(side.queries), sum(1 for _ in self._validation_examples(side)), tuple(notes), parts)

    def write(self, folder: Path) -> Counts:
        """Make ``folder`` with the data in it; it is whole or not there.

        Raises:
            UserError: as ``check``.
        """
        left, bad = ExampleCounts(), BadLines(self._config.skip_bad)
        side, _ = self._validation()
        documents = 2 if self._sources.train == LabelledKind.TRIPLETS else self._config.train_group_size
        schema = columns(self._shape, documents if self._sources.negatives else 1)
        with whole_folder(folder) as partial:
            with writer(partial / TRAIN, schema) as write:
                numbers, training = itertools.count(), self._training(left, bad, side.places)
                parts = tuple(write(self._row(one, next(numbers)) for one in part) for part in training)
            validation_examples = 0
            if side.queries:
                with writer(partial / VALIDATION, columns(Shape.LIST, 0)) as write:
                    write({"query": one.query, "documents": one.documents, "labels": one.labels} for one in side.queries)
                with writer(partial / VALIDATION_LOSS, schema) as write:
                    validation_examples = write(self._row(one, None) for one in self._validation_examples(side))
            counts = Counts(min(parts), len(side.queries), validation_examples, parts=parts)
            (partial / COUNTS).write_text(json.dumps(asdict(counts)), encoding="utf-8")
        return counts

    def _training(self, left: ExampleCounts, bad: BadLines, held: QueryPlaces) -> Iterator[Iterator[Example]]:
        """The examples of each epoch's file."""
        config, kind = self._config, self._sources.train
        for file in self._files:
            shown = self._without(self._labelled(file, bad), held, bad)
            yield examples(shown, kind, self._shape, config.train_group_size, config.seed, left, self._sources.negatives)

    def _labelled(self, file: Path | None, bad: BadLines) -> Iterator[Labelled]:
        """What is in a training file; None is the built-in task."""
        config, kind = self._config, self._sources.train
        if file is None:
            return builtin_labelled(kind, config.seed, range(config.builtin_rows))
        return self._read(file, kind, bad)

    def _without(self, read: Iterable[Labelled], held: QueryPlaces, bad: BadLines) -> Iterator[Labelled]:
        """Refuse what is also asked in validation; of the built-in task, or where a share of data validates, leave it out."""
        for one in read:
            place = held.place(one.query)
            if place is None:
                yield one
            elif self._config.data != BUILTIN and not self._config.validation_share:
                path, _, number = one.place.rpartition(":")
                bad.refuse(Path(path), int(number), f"the query {one.query[:60]!r} is a validation query too ({place})")

    def _validation(self) -> tuple[Side, BadLines]:
        first = self._files[0]
        return validation_side(self._config, self._sources.validation, self._read, lambda bad: self._labelled(first, bad))

    def _validation_examples(self, side: Side) -> Iterator[Example]:
        """What the loss is made of."""
        kind, size = self._sources.validation or self._sources.train, self._config.train_group_size
        return examples(side.found, kind, self._shape, size, self._config.seed, ExampleCounts(), self._sources.negatives)

    def _read(self, path: Path, kind: LabelledKind, bad: BadLines) -> Iterator[Labelled]:
        title = f"reading {path.name}"
        bounds = LabelBounds(self._config.min_label, self._config.max_label)
        for one in read_labelled(path.expanduser(), kind, bounds, bad, title):
            wrong = self._wrong(one, kind)
            if wrong:
                name, _, number = one.place.rpartition(":")
                bad.refuse(Path(name), int(number), wrong)
            elif kind in TEACHERS and self._config.teacher_temperature != 1:
                yield replace(one, labels=tuple(label / self._config.teacher_temperature for label in one.labels))
            else:
                yield one

    def _wrong(self, one: Labelled, kind: LabelledKind) -> str:
        """What is wrong with documents for this loss; empty when nothing is."""
        if self._shape == Shape.TUPLE and max(one.labels) > 0 and (min(one.labels) <= 0) != self._sources.negatives:
            return "some queries have negatives and others none; give all some, or none any"
        if self._loss == "listwise_lambda" and min(one.labels, default=0) < 0:
            return f"the label {min(one.labels):g} is negative, and listwise_lambda gains 2^label − 1; use labels from 0"
        return ""

    def _has_negatives(self, kind: LabelledKind) -> bool:
        """Whether the first query of in-batch tuples with a positive has negatives; all others must do as it does."""
        if self._shape != Shape.TUPLE or self._config.data == BUILTIN:
            return True
        bounds = LabelBounds(self._config.min_label, self._config.max_label)
        found = read_labelled(epoch_files(self._config.data)[0], kind, bounds, BadLines(self._config.skip_bad))
        first = next((one for one in found if max(one.labels) > 0), None)
        return first is None or min(first.labels) <= 0

    def _row(self, one: Example, number: int | None) -> dict[str, Any]:
        """The columns of an example; ``number`` of a training example, whose long documents may be put in another order."""
        documents = one.documents
        if number is not None and self._config.shuffle_rate:
            keys = (hash_key(self._config.seed, "thirds", number, place) for place in range(len(documents)))
            share = self._config.shuffle_rate
            documents = tuple(with_thirds_shuffled(text, share, key) for text, key in zip(documents, keys, strict=True))
        labels = target_labels(self._loss, one)
        if self._shape == Shape.PAIR:
            return {"query": one.query, "document": documents[0], "label": labels[0]}
        if self._shape == Shape.LIST:
            return {"query": one.query, "documents": documents, "labels": labels}
        row = {"query": one.query, "positive": documents[0]}
        row |= {f"negative_{place}": text for place, text in enumerate(documents[1:], 1)}
        return {**row, "label": labels} if self._shape == Shape.SCORED else row


def _kind(name: str, given: str, config: FinetuneConfig) -> LabelledKind:
    if name == BUILTIN and given in TEACHERS:
        raise UserError(f"data_type: the built-in task has no scores of a teacher; give a {given} file with data=")
    if given != "auto":
        return LabelledKind(given)
    if name != BUILTIN:
        return kind_of_labelled(epoch_files(name)[0], config.skip_bad, LabelledKind(config.HITS))
    fitting = (kind for kind, losses in LOSSES.items() if config.loss_type in losses)
    return LabelledKind.GROUPED if config.loss_type in (None, *LOSSES["grouped"]) else LabelledKind(next(fitting))
