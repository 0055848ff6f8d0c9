"""A rerank server in this process, which costs no start of another one: HTTP in its thread, the engine in a second one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from r0.config import RolloutSection, ServeConfig
from r0.rerank import Reranker
from r0.serve.app import Front, make_app
from r0.serve.desk import Desk
from r0.serve.server import listening, running


@dataclass
class Serving:
    """A server; without ``start`` its engine does nothing, as one that is busy."""

    front: Front
    url: str
    stop: threading.Event
    workers: list[threading.Thread] = field(default_factory=list)

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60.0)

    def start(self) -> None:
        work = self.front.reranker.open()
        thread = threading.Thread(target=self.front.desk.work, args=(work, True, lambda: True))
        self.workers.append(thread)
        thread.start()


@contextlib.contextmanager
def serving(reranker: Reranker | None, token: str = "", **keys) -> Iterator[Serving]:
    """A server of ``reranker``; None: one whose model is loading."""
    config = ServeConfig(**{"model": "r0-tiny", "rollout": RolloutSection(engine="hf"), "port": 0, **keys})
    stop = threading.Event()
    front = Front(config, Desk(config.max_requests, config.timeout_s, stop.is_set))
    front.reranker, front.desk.ready = reranker, reranker is not None
    with listening(config.host, config.port) as listener, running(make_app(front, token), listener):
        server = Serving(front, f"http://127.0.0.1:{listener.getsockname()[1]}", stop)
        try:
            yield server
        finally:
            stop.set()
            for thread in server.workers:
                thread.join()
