"""Calls whose large results stay where they are made: the caller gets small figures, and the address of the rest.

Plain objects are called in the same way, one after the other: a value is its own address.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from r0.actors.calls import LOOK_S, CallLeft, RoleTimeout, answer, attempt_plain, is_actor
from r0.records import Address


class Begun:
    """A call of a method that returns ``(figures, rest)``. An actor works on it from now on, after what it was given before; a
    plain object when the figures are wanted.

    Attributes:
        rest: its address, once there are figures.
    """

    def __init__(self, worker: Any, method: str, arguments: tuple, who: str):
        self._worker, self._method, self._arguments, self._who = worker, method, arguments, who
        self._figures: Any = None
        self.rest: Address = None
        if is_actor(worker):
            self._figures, self.rest = getattr(worker, method).options(num_returns=2).remote(*arguments)

    def figures(self, deadline_s: float) -> Any:
        """The figures, or the ``RoleTimeout`` or ``RoleDied`` of the worker.

        Raises:
            ObjectsLost: what the call was given is gone with its node.
        """
        if is_actor(self._worker):
            return answer(self._figures, self._who, self._method, deadline_s)
        found = attempt_plain(self._worker, self._method, self._arguments, deadline_s, self._who)
        if isinstance(found, RoleTimeout):
            return found
        figures, self.rest = found
        return figures


def _late(streams: Mapping[Any, int], end: Mapping[int, float]) -> list[Any]:
    """The streams of workers, by index, whose ``end`` has passed without anything that their caller, busy elsewhere, has not
    taken yet."""
    import ray

    over = [stream for stream, index in streams.items() if time.monotonic() >= end[index]]
    return [stream for stream in over if not ray.wait([stream], timeout=0, fetch_local=False)[0]]


def stream_some(
    workers: Mapping[int, Any],
    method: str,
    arguments: Mapping[int, tuple],
    deadline_s: float,
    role: str,
    leave: Callable[[], bool] | None = None,
) -> Iterator[tuple[int, tuple[Address, Any] | Exception]]:
    """Call ``method`` of some workers, by index, at the same time. It is a generator, which gives large things and their figures
    by turns: first the thing, then its figures. Each pair comes here as soon as it is made, as (index, (address, figures)), and
    as the last of a worker that fails its exception: a ``RoleTimeout`` if it gives nothing for ``deadline_s`` seconds.

    Raises:
        UserError: a worker raised it.
        CallLeft: ``leave()`` is true; the actors still work on their calls.
    """
    if not all(map(is_actor, workers.values())):  # inline: a worker cannot be replaced
        for index, worker in workers.items():
            items = iter(getattr(worker, method)(*arguments[index]))
            for pair in zip(items, items, strict=True):
                yield index, pair
        return
    import ray

    end = dict.fromkeys(workers, time.monotonic() + deadline_s)
    made = {i: getattr(worker, method).options(num_returns="streaming").remote(*arguments[i]) for i, worker in workers.items()}
    streams = {stream: index for index, stream in made.items()}
    held: dict[int, Any] = {}  # the newest thing of a worker, until its figures are there
    while streams:
        left_s = max(0.0, min(end[index] for index in streams.values()) - time.monotonic())
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=min(LOOK_S, left_s), fetch_local=False)
        if leave is not None and leave():
            raise CallLeft("the call was left")
        for stream in _late(streams, end):
            index = streams.pop(stream)
            yield index, RoleTimeout(f"{role} {index}: {method} gave nothing for {deadline_s:g} s")
        for stream in ready:
            index = streams[stream]
            end[index] = time.monotonic() + deadline_s
            try:
                item = next(stream)
            except StopIteration:
                del streams[stream]
                if index not in held:
                    continue
                # Not a thing, but the error.
                figures = answer(held.pop(index), f"{role} {index}", method, deadline_s, tolerant=True)
                yield index, figures if isinstance(figures, Exception) else RuntimeError(f"{role} {index}: {method} broke off")
                continue
            if index not in held:
                held[index] = item
                continue
            figures = answer(item, f"{role} {index}", method, deadline_s, tolerant=True)
            thing = held.pop(index)
            if isinstance(figures, Exception):
                del streams[stream]
                yield index, figures
            else:
                yield index, (thing, figures)
