"""The built-in task as rows, generated on demand; nothing is stored on disk."""

from __future__ import annotations

from array import array

import numpy as np

from r0.data.builtin.lists import MOST_CANDIDATES, builtin_list_task
from r0.data.builtin.pairs import builtin_task
from r0.data.hashes import query_hash
from r0.data.index import RELEVANT, THOUGHT
from r0.data.jsonl import BadLines
from r0.errors import UserError
from r0.records import Form, ListwiseTask, PointwiseTask


class BuiltinRows:
    """``count`` rows of the built-in task with this seed. Query hashes and labels are computed once at the start."""

    def __init__(self, count: int, seed: int):
        self.name = "builtin"
        self.bad = BadLines()
        self.unjudged = 0
        self._seed = seed
        hashes, flags = array("Q"), array("B")
        for row in range(count):
            task = builtin_task(row, seed)
            hashes.append(query_hash(task.query))
            flags.append(RELEVANT * task.label | THOUGHT * bool(task.think))
        self._hashes_N = np.frombuffer(hashes, np.uint64)
        self.flags_N = np.frombuffer(flags, np.uint8)

    def __len__(self) -> int:
        return len(self.flags_N)

    def query_hashes(self) -> np.ndarray:
        """uint64 [rows]."""
        return self._hashes_N

    def task(self, row: int) -> PointwiseTask:
        """Generate row ``row``."""
        return builtin_task(row, self._seed)


class BuiltinListRows:
    """``count`` lists of the built-in task with this seed: ``candidates`` documents each, answered in ``form``.

    Raises:
        UserError: more candidates than possible, or fewer than 2.
    """

    def __init__(self, count: int, seed: int, form: Form, candidates: int):
        if not 2 <= candidates <= MOST_CANDIDATES:
            raise UserError(f"candidates={candidates}: lists of data=builtin have 2 to {MOST_CANDIDATES}; use candidates=6")
        self.name = "builtin"
        self.bad = BadLines()
        self.unjudged = 0
        self._seed, self._form, self._candidates = seed, form, candidates
        hashes = array("Q", (query_hash(self.task(row).query) for row in range(count)))
        self._hashes_N = np.frombuffer(hashes, np.uint64)
        self.flags_N = np.full(count, RELEVANT | THOUGHT, np.uint8)

    def __len__(self) -> int:
        return len(self.flags_N)

    def query_hashes(self) -> np.ndarray:
        """uint64 [rows]."""
        return self._hashes_N

    def task(self, row: int) -> ListwiseTask:
        """Generate row ``row``."""
        return builtin_list_task(row, self._seed, self._form, self._candidates)
