"""Pools of workers: plain objects in the driver's process (inline), or Ray actors with a deadline on every call.

The rest of r0 does not depend on which of the two it has, so the same code path runs in a debugger and on a cluster.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r0.errors import RunFailed, UserError, reason
from r0.process.interruption import DeadlineExceeded, interrupted_after

LOOK_S = 0.5  # seconds between looks at whether a call is still wanted
CLOSE_S = 10.0  # seconds that a worker has to close before it is killed


class RoleTimeout(RunFailed):
    """A worker did not answer within its deadline. (It has one argument, so that Ray can pickle it.)"""


class RoleDied(RunFailed):
    """A worker's process has ended."""


class CallLeft(RuntimeError):
    """The caller does not want to wait for the results any more."""


def call_each(
    workers: Sequence[Any],
    method: str,
    arguments: Sequence[tuple],
    deadline_s: float,
    role: str = "worker",
    leave: Callable[[], bool] | None = None,
) -> list[Any]:
    """Call ``workers[i].method(*arguments[i])`` for all i at the same time and return the results in order.

    Once ``leave()`` is true, ``is_left()`` is true in the actors, whose method may return early.

    Raises:
        RoleTimeout: a Ray actor did not answer within ``deadline_s`` seconds (calls of plain objects have no deadline).
        RoleDied: a Ray actor's process ended.
        CallLeft: the call was left; the actors may still work on it.
    """
    if not workers:
        return []
    if not is_actor(workers[0]):
        return [getattr(worker, method)(*args) for worker, args in zip(workers, arguments, strict=True)]
    import ray

    refs = [getattr(worker, method).remote(*args) for worker, args in zip(workers, arguments, strict=True)]
    try:
        return ray.get(refs, timeout=deadline_s) if leave is None else _get_or_leave(refs, deadline_s, leave)
    except ray.exceptions.GetTimeoutError:
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        late = [str(i) for i, ref in enumerate(refs) if ref not in ready]
        raise RoleTimeout(f"{role} {', '.join(late)}: {method} did not answer within {deadline_s:g} s") from None
    except ray.exceptions.ActorDiedError as error:
        raise RoleDied(f"{role}: a process ended during {method}: {_why(error)}") from error


def attempt_each(
    workers: Sequence[Any],
    method: str,
    arguments: Sequence[tuple],
    deadline_s: float,
    role: str = "worker",
    tolerant: bool = False,
    numbers: Sequence[int] | None = None,
    leave: Callable[[], bool] | None = None,
) -> list[Any]:
    """Like ``call_each``, but if a worker hangs or dies, its ``RoleTimeout`` or ``RoleDied`` is its element of the result.

    An exception that the method itself raised is raised here; if ``tolerant``, it is left in the list too, unless it is a
    ``UserError``. ``numbers`` are the workers' own, for messages, where they are not all of a role. Plain objects have the
    deadline too, each call, as far as Python can be interrupted (see ``interrupted_after``).

    Raises:
        CallLeft: ``leave()`` is true; the actors still work on their calls.
    """
    if not workers:
        return []
    if not is_actor(workers[0]):
        return [
            _attempt(worker, method, args, deadline_s, f"{role} {index}")
            for index, (worker, args) in enumerate(zip(workers, arguments, strict=True))
        ]
    import ray

    refs = [getattr(worker, method).remote(*args) for worker, args in zip(workers, arguments, strict=True)]
    ready = _wait_or_leave(refs, deadline_s, leave) if leave else ray.wait(refs, num_returns=len(refs), timeout=deadline_s)[0]
    results: list[Any] = []
    for index, ref in zip(numbers or range(len(refs)), refs, strict=True):
        try:
            # A ready result may still have to be copied from another node, which needs a deadline too.
            results.append(ray.get(ref, timeout=deadline_s if ref in ready else 0))
        except ray.exceptions.GetTimeoutError:
            results.append(RoleTimeout(f"{role} {index}: {method} did not answer within {deadline_s:g} s"))
        except ray.exceptions.RayActorError as error:
            results.append(RoleDied(f"{role} {index}: its process ended during {method}: {_why(error)}"))
        except Exception as error:
            if not tolerant or isinstance(error, UserError):
                raise
            results.append(error)
    return results


def _why(error: Exception) -> str:
    """Ray's reason for the end of an actor's process, in one line, without the general text at its beginning."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line.partition("because")[2].strip() for line in lines if "because" in line]
    return next((cause for cause in causes if cause), lines[0] if lines else reason(error))


def _attempt(worker: Any, method: str, args: tuple, deadline_s: float, who: str) -> Any:
    try:
        with interrupted_after(deadline_s):
            return getattr(worker, method)(*args)
    except DeadlineExceeded:
        return RoleTimeout(f"{who}: {method} did not answer within {deadline_s:g} s")


def _get_or_leave(refs: list[Any], deadline_s: float, leave: Callable[[], bool]) -> list[Any]:
    """``ray.get``, which looks at ``leave`` meanwhile.

    Not at first: Ray does not begin a call that is cancelled at once, and workers that have begun would wait for those that have
    not.

    Raises:
        CallLeft: it is true. Ray gives no result of such a call, even if the method returns one.
    """
    import ray

    end = time.monotonic() + deadline_s
    while True:
        try:
            return ray.get(refs, timeout=min(LOOK_S, max(0.0, end - time.monotonic())))
        except ray.exceptions.GetTimeoutError:
            if time.monotonic() >= end:
                raise
            if leave():
                break
    for ref in refs:
        ray.cancel(ref)
    raise CallLeft("the call was left")


def _wait_or_leave(refs: list[Any], deadline_s: float, leave: Callable[[], bool]) -> list[Any]:
    """``ray.wait`` for all ``refs``, which looks at ``leave`` meanwhile; returns those that are ready in time.

    Raises:
        CallLeft: it is true.
    """
    import ray

    end = time.monotonic() + deadline_s
    while True:
        ready, late = ray.wait(refs, num_returns=len(refs), timeout=min(LOOK_S, max(0.0, end - time.monotonic())))
        if leave():
            raise CallLeft("the call was left")
        if not late or time.monotonic() >= end:
            return ready


def is_left() -> bool:
    """In a Ray actor: whether the caller has left the call that it works on. False in any other process."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return False
    return ray.get_runtime_context().is_canceled()


def is_actor(worker: Any) -> bool:
    """Whether ``worker`` is a Ray actor handle; does not import Ray."""
    return type(worker).__module__.startswith("ray.")


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

    def attempt(self, method: str, arguments: Sequence[tuple], deadline_s: float) -> list[Any]:
        """Like ``each``, but with ``attempt_each``'s handling of workers that hang or die."""
        return attempt_each(self.workers[: len(arguments)], method, arguments, deadline_s, self.role)

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
        """Call ``method`` on worker ``index``; its result, or its exception as ``attempt`` returns it."""
        return attempt_each([self.workers[index]], method, [arguments], deadline_s, self.role, numbers=[index])[0]

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
