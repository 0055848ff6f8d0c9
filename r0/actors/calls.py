"""Calls of workers: of plain objects in the driver's process (inline), or of Ray actors with a deadline on every call.

The rest of r0 does not depend on which of the two it has, so the same code path runs in a debugger and on a cluster.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from r0.errors import RunFailed, UserError, reason
from r0.process.interruption import DeadlineExceeded, interrupted_after
from r0.process.objects import lost

LOOK_S = 0.5  # seconds between looks at whether a call is still wanted


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
            attempt_plain(worker, method, args, deadline_s, f"{role} {index}")
            for index, (worker, args) in enumerate(zip(workers, arguments, strict=True))
        ]
    import ray

    refs = [getattr(worker, method).remote(*args) for worker, args in zip(workers, arguments, strict=True)]
    ready = _wait_or_leave(refs, deadline_s, leave) if leave else ray.wait(refs, num_returns=len(refs), timeout=deadline_s)[0]
    names = [f"{role} {index}" for index in numbers or range(len(refs))]
    # A ready result may still have to be copied from another node, which needs a deadline too.
    return [
        answer(ref, name, method, deadline_s, wait=ref in ready, tolerant=tolerant) for name, ref in zip(names, refs, strict=True)
    ]


def answer(ref: Any, who: str, method: str, deadline_s: float, wait: bool = True, tolerant: bool = False) -> Any:
    """The value of a Ray reference, or the ``RoleTimeout`` or ``RoleDied`` of the worker that was to make it. ``tolerant`` as in
    ``attempt_each``; without ``wait`` it is there or late.

    Raises:
        ObjectsLost: a value that the call was given is gone with its node.
    """
    import ray

    try:
        return ray.get(ref, timeout=deadline_s if wait else 0)
    except ray.exceptions.GetTimeoutError:
        return RoleTimeout(f"{who}: {method} did not answer within {deadline_s:g} s")
    except ray.exceptions.RayActorError as error:
        return RoleDied(f"{who}: its process ended during {method}: {_why(error)}")
    except ray.exceptions.ObjectLostError as error:
        raise lost(error) from error
    except Exception as error:
        if not tolerant or isinstance(error, UserError):
            raise
        return error


def _why(error: Exception) -> str:
    """Ray's reason for the end of an actor's process, in one line, without the general text at its beginning."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line.partition("because")[2].strip() for line in lines if "because" in line]
    return next((cause for cause in causes if cause), lines[0] if lines else reason(error))


def attempt_plain(worker: Any, method: str, args: tuple, deadline_s: float, who: str) -> Any:
    """The result of a plain object's method, or a ``RoleTimeout``."""
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


def end_quietly() -> None:
    """In a Ray actor that has closed: let SIGTERM end its process. Ray's own handler raises wherever the main thread is, such as
    in a destructor, and Python prints that as a traceback. Nothing happens in any other process."""
    ray: Any = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return
    with contextlib.suppress(ValueError):  # not the main thread, which alone may set a handler
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_actor(worker: Any) -> bool:
    """Whether ``worker`` is a Ray actor handle; does not import Ray."""
    return type(worker).__module__.startswith("ray.")
