"""Pools of workers: the workers of one role, plain objects or Ray actors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from r0.actors.addresses import Begun, stream_some
from r0.actors.calls import attempt_each, call_each, is_actor
from r0.records import Address

CLOSE_S = 10.0  # seconds that a worker has to close before it is killed


class Pool:
    """The workers of one role.

    Args:
        role: name in messages.
        make: creates worker ``i``: a plain object, or a Ray actor handle.
        size: number of workers.
    """

    def __init__(self, role: str, make: Callable[[int], Any], size: int):
        self.role = role
        self._make = make
        self.workers = [make(index) for index in range(size)]

    def __len__(self) -> int:
        return len(self.workers)

    def all(self, method: str, *args: Any, deadline_s: float) -> list[Any]:
        """Call ``method(*args)`` on every worker at the same time."""
        return call_each(self.workers, method, [args] * len(self.workers), deadline_s, self.role)

    def each(
        self, method: str, arguments: Sequence[tuple], deadline_s: float, leave: Callable[[], bool] | None = None
    ) -> list[Any]:
        """Call ``method`` on worker i with ``arguments[i]``; with fewer arguments than workers, the last are not called."""
        return call_each(self.workers[: len(arguments)], method, arguments, deadline_s, self.role, leave)

    def attempt_some(
        self, method: str, arguments: Mapping[int, tuple], deadline_s: float, leave: Callable[[], bool] | None = None
    ) -> dict[int, Any]:
        """Call ``method`` on some workers, by index; if a worker fails, its exception is its element of the result.

        Raises:
            UserError: a worker raised it.
            CallLeft: ``leave()`` is true.
        """
        workers = [self.workers[index] for index in arguments]
        if workers and not is_actor(workers[0]):  # inline: a worker cannot be replaced
            return dict(zip(arguments, call_each(workers, method, list(arguments.values()), deadline_s, self.role), strict=True))
        numbers = list(arguments)
        given = list(arguments.values())
        results = attempt_each(workers, method, given, deadline_s, self.role, tolerant=True, numbers=numbers, leave=leave)
        return dict(zip(arguments, results, strict=True))

    def attempt_on(self, index: int, method: str, arguments: tuple, deadline_s: float) -> Any:
        """Call ``method`` on worker ``index``; its result, or its exception as ``attempt_each`` returns it."""
        return attempt_each([self.workers[index]], method, [arguments], deadline_s, self.role, numbers=[index])[0]

    def begin(self, index: int, method: str, arguments: tuple) -> Begun:
        """Call ``method`` on worker ``index`` in the background."""
        return Begun(self.workers[index], method, arguments, f"{self.role} {index}")

    def stream_some(
        self, method: str, arguments: Mapping[int, tuple], deadline_s: float, leave: Callable[[], bool] | None = None
    ) -> Iterator[tuple[int, tuple[Address, Any] | Exception]]:
        """Call the generator ``method`` on some workers, by index; see ``addresses.stream_some``."""
        workers = {index: self.workers[index] for index in arguments}
        return stream_some(workers, method, arguments, deadline_s, self.role, leave)

    def replace(self, index: int) -> None:
        """Kill worker ``index`` and start a new one in its place."""
        self._end(self.workers[index])
        self.workers[index] = self._make(index)

    def replace_all(self) -> None:
        """Kill all workers and start new ones in their place."""
        for worker in self.workers:
            self._end(worker)
        self.workers = [self._make(index) for index in range(len(self.workers))]

    def close(self, gently: bool = True) -> None:
        """Close all workers at the same time, then kill them. ``gently=False``: kill them at once."""
        workers, self.workers = self.workers, []
        if gently and workers and is_actor(workers[0]) and hasattr(workers[0], "close"):
            # One that is dead or hung, or fails to close, is killed anyway.
            attempt_each(workers, "close", [()] * len(workers), CLOSE_S, self.role, tolerant=True)
        for worker in workers:
            self._end(worker)

    @staticmethod
    def _end(worker: Any) -> None:
        if is_actor(worker):
            import ray

            ray.kill(worker, no_restart=True)
        elif hasattr(worker, "close"):
            worker.close()


def deferred_class(cls: type) -> type:
    """A subclass of ``cls`` whose constructor runs in ``start()``, so that its exceptions keep their types in Ray."""

    class Deferred(cls):
        def __init__(self, *arguments: Any):
            self._arguments = arguments

        def start(self) -> float:
            """Run the constructor; returns the seconds it took."""
            began = time.monotonic()
            super().__init__(*self._arguments)
            return time.monotonic() - began

    Deferred.__name__ = Deferred.__qualname__ = cls.__name__
    return Deferred
