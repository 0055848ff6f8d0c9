"""Between the two threads of a server: requests arrive in the one, the engines work in the other.

``Desk.ask`` runs in the event loop of the HTTP thread, ``Desk.work`` in the main thread. Jobs of all requests are in progress
together. A request whose client goes, or whose deadline passes, takes its jobs back.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from r0.rerank.group import SharedWork
from r0.rerank.job import Job, Outcome
from r0.serve.refusals import Kind, Refusal

IDLE_S = 0.2  # between looks at whether to stop, while there is nothing to do
INLINE_S = 0.005  # an engine in this process makes one step, then new jobs are taken
ACTOR_S = 0.05  # a call to an engine in another process

Deliver: TypeAlias = Callable[[Outcome | Exception], None]


@dataclass(frozen=True)
class _Placed:
    """A job, and what to do with its outcome."""

    job: Job
    deliver: Deliver


@dataclass(frozen=True)
class _Withdrawn:
    """Jobs that nobody waits for any more."""

    keys: tuple[int, ...]


class Desk:
    """Takes the jobs of requests to the engines, and their outcomes back.

    Args:
        most: maximum number of requests in progress or waiting.
        timeout_s: time limit of a request in seconds.
        stops: whether the server is to end: requests that have begun are finished, new ones refused.
    """

    def __init__(self, most: int, timeout_s: float, stops: Callable[[], bool]):
        self._most, self._timeout_s, self._stops = most, timeout_s, stops
        self._inbox: queue.SimpleQueue[_Placed | _Withdrawn] = queue.SimpleQueue()
        self._waiting: dict[int, Deliver] = {}  # main thread only
        self.begun = 0  # HTTP thread only
        self.ready = False

    def check_open(self) -> None:
        """Refuse a request that cannot be begun now.

        Raises:
            Refusal: the model is loading, the server stops, or there are too many requests.
        """
        if self._stops():
            raise Refusal(Kind.UNAVAILABLE, "the server is stopping")
        if not self.ready:
            raise Refusal(Kind.UNAVAILABLE, "the model is loading; /ready says when it is there")
        if self.begun >= self._most:
            raise Refusal(Kind.BUSY, f"{self._most} requests are in progress or waiting; try again in a moment")

    async def ask(self, jobs: Sequence[Job], gone: Callable[[], Awaitable[None]]) -> list[Outcome]:
        """The outcomes of the jobs, in order. ``gone()`` returns when the client has gone.

        Raises:
            Refusal: the request cannot be begun, its client has gone, its deadline has passed, or the engine failed.
        """
        self.check_open()
        self.begun += 1
        try:
            if self._stops():  # looked at once more: ``work`` ends when it stops and none is begun
                raise Refusal(Kind.UNAVAILABLE, "the server is stopping")
            return await self._outcomes(jobs, gone)
        finally:
            self.begun -= 1

    async def _outcomes(self, jobs: Sequence[Job], gone: Callable[[], Awaitable[None]]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in jobs]
        for job, future in zip(jobs, futures, strict=True):
            self._inbox.put(_Placed(job, _deliverer(loop, future)))
        leaving: asyncio.Future[None] = asyncio.ensure_future(gone())
        everything: asyncio.Future[list[Outcome]] = asyncio.gather(*futures)
        try:
            either: set[asyncio.Future] = {everything, leaving}
            await asyncio.wait(either, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if everything.done():
                return everything.result()
            if leaving.done():
                raise Refusal(Kind.GONE, "the client has gone")
            raise Refusal(Kind.LATE, f"not done within {self._timeout_s:g} seconds")
        finally:
            leaving.cancel()
            if not all(future.done() for future in futures):
                everything.cancel()
                self._inbox.put(_Withdrawn(tuple(job.key for job in jobs)))

    def work(self, shared: SharedWork, inline: bool, alive: Callable[[], bool]) -> None:
        """Work on the jobs of requests until the server is to stop and all that were begun are done.

        Args:
            shared: the engines' work.
            inline: whether the engine is in this process.
            alive: whether the HTTP thread runs.

        Raises:
            Exception: of an engine in this process; all who wait are told.
        """
        self.ready = True
        try:
            while alive() and not (self._stops() and not self.begun and shared.idle and self._inbox.empty()):
                self._take(shared)
                if shared.idle:
                    continue
                for outcome in shared.poll(INLINE_S if inline else ACTOR_S):
                    self._deliver(outcome.key, outcome)
                for key in list(shared.lost):
                    self._deliver(key, shared.lost.pop(key))
        except BaseException:
            self.ready = False
            while not self._inbox.empty():
                if isinstance(found := self._inbox.get(), _Placed):
                    self._waiting[found.job.key] = found.deliver
            for key in list(self._waiting):
                self._deliver(key, RuntimeError("the engine failed"))
            raise

    def _take(self, shared: SharedWork) -> None:
        """Take what has arrived; if there is nothing else to do, wait for it a moment."""
        try:
            found = self._inbox.get(timeout=IDLE_S) if shared.idle else self._inbox.get_nowait()
            while True:
                if isinstance(found, _Placed):
                    self._waiting[found.job.key] = found.deliver
                    shared.add(found.job)
                else:
                    shared.cancel(found.keys)
                    for key in found.keys:
                        self._waiting.pop(key, None)
                found = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _deliver(self, key: int, outcome: Outcome | Exception) -> None:
        deliver = self._waiting.pop(key, None)
        if deliver is not None:
            deliver(outcome)


def _deliverer(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Outcome]) -> Deliver:
    """A function for the other thread that sets the future."""

    def settle(outcome: Outcome | Exception) -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(Refusal(Kind.FAILED, "the engine failed on this request"))
        else:
            future.set_result(outcome)

    def deliver(outcome: Outcome | Exception) -> None:
        try:
            loop.call_soon_threadsafe(settle, outcome)
        except RuntimeError:  # the loop is closed: the HTTP thread has ended, and its clients with it
            return

    return deliver
