"""Selects the tasks of each step. A batch is a pure function of (seed, step, refill round), so a repeated or resumed step sees
the same rows.

* Split: a query is held out if the hash of its normalized text is below ``heldout_share``. All rows of a query are on the
  same side, and adding rows never moves a query. (If that leaves a side empty although there are two or more queries, it gets
  the nearest query.)
* Order: each epoch is a new permutation of the training rows; an epoch has rows // batch_size steps.
* ``label_sampling="balanced"``: each batch is half relevant, half not; each class is traversed in its own shuffled order.
* Refill rounds draw rows not drawn earlier in the same step, as long as there are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from r0.config.commands import DataKeys, RunKeys
from r0.config.lists import ListKeys
from r0.data.formats import open_lists, open_rows
from r0.data.hashes import Shuffle, hash_key
from r0.data.index import RELEVANT, THOUGHT, Rows
from r0.data.lists import ListRows
from r0.errors import UserError
from r0.records import Form, Task


def open_source(keys: DataKeys, seed: int, with_thought: bool = False) -> TaskSource:
    """Open the tasks named by the configuration: single documents, or lists if its answer form is a list form.

    Args:
        keys: any configuration with the data keys.
        seed: of the data order; for lists also of their draws, for the built-in task also of the tasks.
        with_thought: only rows with a thought (warm start).

    Raises:
        UserError: the data is missing, invalid, empty, or does not fit the keys.
    """
    form = keys.form if isinstance(keys, RunKeys) else Form.YES_NO
    if form == Form.YES_NO:
        return TaskSource(open_rows(keys, seed), seed, keys.heldout_share, keys.label_sampling == "balanced", with_thought)
    if keys.label_sampling == "balanced":
        raise UserError(
            "label_sampling: balanced is for single documents (a list holds both classes); use label_sampling=natural"
        )
    if not isinstance(keys, ListKeys):
        raise TypeError(f"{type(keys).__name__} has a list form but no list keys")
    rows = open_lists(keys, keys, form, seed, with_thought)
    return TaskSource(rows, seed, keys.heldout_share, with_thought=with_thought, unit="list")


class TaskSource:
    """Training and held-out tasks of one data set. Small to pickle: texts stay in their files.

    Args:
        rows: all rows.
        seed: of the order.
        heldout_share: share of the queries (by hash) that is held out.
        balanced: each batch half relevant, half not.
        with_thought: exclude rows without a thought from both sides; ``left_out`` counts them.
        unit: the name of a row in messages.

    Raises:
        UserError: balanced sampling with training rows of only one class, or no row has a thought although one is needed.
    """

    def __init__(
        self,
        rows: Rows,
        seed: int,
        heldout_share: float = 0.0,
        balanced: bool = False,
        with_thought: bool = False,
        unit: Literal["row", "list"] = "row",
    ):
        self.rows, self.seed, self.balanced, self._unit = rows, seed, balanced, unit
        hashes_N = rows.query_hashes()
        held_N = held_out(hashes_N, heldout_share)
        used_N = rows.flags_N & THOUGHT != 0 if with_thought else np.ones(len(held_N), bool)
        self.left_out = len(used_N) - int(used_N.sum())
        if with_thought and not used_N.any():
            what = "grouped rows" if unit == "list" else "rows"
            raise UserError(f"data: no {unit} of {rows.name} has a thought to imitate; give {what} with a non-empty think field")
        self._train_T = np.flatnonzero(~held_N & used_N).astype(np.int32)
        self._heldout_E = np.flatnonzero(held_N & used_N).astype(np.int32)
        self.train_queries = len(np.unique(hashes_N[self._train_T]))
        self.heldout_queries = len(np.unique(hashes_N[self._heldout_E]))
        relevant_T = rows.flags_N[self._train_T] & RELEVANT != 0
        self._relevant = int(relevant_T.sum())
        self._classes = (self._train_T[relevant_T], self._train_T[~relevant_T]) if balanced else None
        if self._classes and not all(map(len, self._classes)):
            one = "relevant" if len(self._classes[0]) else "not relevant"
            raise UserError(
                f"label_sampling: balanced needs rows of both classes, but every training row of {rows.name} is {one}; "
                "use label_sampling=natural, or check relevance_threshold"
            )

    def __len__(self) -> int:
        """Number of training rows."""
        return len(self._train_T)

    @property
    def heldout_rows(self) -> int:
        """Number of rows of held-out queries."""
        return len(self._heldout_E)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of steps in one pass over the training rows.

        Raises:
            UserError: there are fewer training rows than ``batch_size``.
        """
        if len(self) < batch_size:
            remedy = f"set batch_size to at most {len(self)}" if len(self) else "lower heldout_share"
            raise UserError(
                f"batch_size: {self.rows.name} has {len(self)} training {self._unit}s, fewer than {batch_size}; {remedy}"
            )
        return len(self) // batch_size

    def batch(self, step: int, batch_size: int, refill_round: int = 0) -> list[Task]:
        """The tasks of a step (counted from 0), or those of a refill round (counted from 1) for the same step.

        Raises:
            UserError: there are fewer training rows than ``batch_size``, or the data changed during the run.
        """
        return [self.rows.task(row) for row in self.batch_rows(step, batch_size, refill_round)]

    def batch_rows(self, step: int, batch_size: int, refill_round: int = 0) -> list[int]:
        """The row numbers of ``batch``."""
        if refill_round:
            return self._refill(step, batch_size, refill_round)
        if self._classes:
            return self._balanced(step, batch_size)
        epoch, place = divmod(step, self.steps_per_epoch(batch_size))
        order = Shuffle(len(self), hash_key("order", self.seed, epoch))
        return [int(self._train_T[order[place * batch_size + index]]) for index in range(batch_size)]

    def _balanced(self, step: int, batch_size: int) -> list[int]:
        """Half of each class; in odd batches the extra row alternates between the classes."""
        self.steps_per_epoch(batch_size)  # raises if there is too little data, as without balancing
        starts = (step * batch_size // 2, step * batch_size - step * batch_size // 2)
        ends = ((step + 1) * batch_size // 2, (step + 1) * batch_size - (step + 1) * batch_size // 2)
        found = []
        for name, rows, start, end in zip(("relevant", "other"), self._classes or (), starts, ends, strict=True):
            for index in range(start, end):
                epoch, place = divmod(index, len(rows))
                found.append(int(rows[Shuffle(len(rows), hash_key("order", self.seed, name, epoch))[place]]))
        mixed = Shuffle(len(found), hash_key("mixed", self.seed, step))
        return [found[mixed[index]] for index in range(len(found))]

    def _refill(self, step: int, batch_size: int, refill_round: int) -> list[int]:
        """Rows from a permutation specific to the step, without those of the batch; it wraps around at its end."""
        used = set(self.batch_rows(step, batch_size))
        order = Shuffle(len(self), hash_key("refill", self.seed, step))
        wanted = range((refill_round - 1) * batch_size, refill_round * batch_size)
        fresh: list[int] = []
        for place in range(len(self)):
            row = int(self._train_T[order[place]])
            if row not in used:
                fresh.append(row)
            if len(fresh) == wanted.stop:
                break
        fresh = fresh or sorted(used)  # the batch already has every row
        return [fresh[index % len(fresh)] for index in wanted]

    def heldout(self, count: int) -> list[Task]:
        """A fixed sample of at most ``count`` held-out tasks; empty if nothing is held out."""
        order = Shuffle(self.heldout_rows, hash_key("heldout", self.seed))
        chosen = sorted(int(self._heldout_E[order[index]]) for index in range(min(count, self.heldout_rows)))
        return [self.rows.task(row) for row in chosen]

    def train_rows(self, with_thought: bool = False) -> np.ndarray:
        """Row numbers of the training rows, int32, in file order; with ``with_thought`` only those that have a thought."""
        if not with_thought:
            return self._train_T
        return self._train_T[self.rows.flags_N[self._train_T] & THOUGHT != 0]

    def task(self, row: int) -> Task:
        """The task of a row, by row number (``task_id``)."""
        return self.rows.task(int(row))

    def tasks(self, with_thought: bool = False) -> Iterator[Task]:
        """The training tasks in file order, one at a time."""
        return (self.task(row) for row in self.train_rows(with_thought))

    def facts(self) -> dict[str, int]:
        """The facts about the data for the model card."""
        return {
            f"training {self._unit}s": len(self),
            "training queries": self.train_queries,
            f"held-out {self._unit}s": self.heldout_rows,
            "held-out queries": self.heldout_queries,
        }

    def summary(self) -> str:
        """A printable summary of the data, with its bad lines."""
        unit = self._unit
        parts = [f"{self.rows.name}: {len(self)} training {unit}s of {self.train_queries} queries"]
        if unit == "row":
            parts[0] += f", {self._relevant / max(1, len(self)):.0%} relevant"
        parts.append(f"{self.heldout_rows} held-out {unit}s of {self.heldout_queries} queries")
        if self.left_out:
            parts.append(f"{self.left_out} {unit}s without a thought dropped")
        if isinstance(self.rows, ListRows):
            parts += self.rows.notes()
        if self.rows.unjudged:
            parts.append(f"{self.rows.unjudged} candidates without a judgement, treated as not relevant")
        return "\n".join(part for part in ("; ".join(parts), self.rows.bad.summary()) if part)


def held_out(hashes_N: np.ndarray, share: float) -> np.ndarray:
    """bool [rows]: which rows are held out, by the hashes of their queries."""
    if share <= 0 or not len(hashes_N):
        return np.zeros(len(hashes_N), bool)
    if share >= 1:
        return np.ones(len(hashes_N), bool)
    held_N = hashes_N < np.uint64(int(share * 2.0**64))
    least, most = hashes_N.min(), hashes_N.max()
    if least == most:  # a single query cannot be on both sides: train on it
        return np.zeros(len(hashes_N), bool)
    if not held_N.any():
        return hashes_N == least
    return held_N if not held_N.all() else hashes_N != most
