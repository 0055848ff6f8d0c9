"""The server's process: HTTP in a thread of its own, the engines in the main thread, which signals reach."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from r0.config import ServeConfig
from r0.errors import RunFailed, UserError, reason
from r0.process.signals import Stopped, StopRequest
from r0.rerank.reranker import Reranker
from r0.serve.app import Front, make_app
from r0.serve.desk import Desk

CLOSE_S = 5  # seconds for answers that are being sent when all are done
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def token_of(config: ServeConfig) -> str:
    """The bearer token that clients must have; empty: none.

    Raises:
        UserError: one was given, and it is blank, which would let anyone in.
    """
    given = config.api_key or os.environ.get("R0_API_KEY", "")
    if given and not given.strip():
        raise UserError(f"{'api_key' if config.api_key else 'R0_API_KEY'}: is blank; give a token, or none at all")
    return given.strip()


def serve(config: ServeConfig) -> int:
    """Serve until a signal comes; requests that have begun are finished first. Returns the exit code.

    Raises:
        UserError: the address cannot be listened on, or the engines cannot be started.
        RunFailed: the HTTP thread ended by itself.
    """
    token = token_of(config)
    with listening(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        with StopRequest("stopping: requests that have begun are finished, new ones refused") as stop, stop.saving():
            front = Front(config, Desk(config.max_requests, config.timeout_s, stop))
            with running(make_app(front, token), listener) as thread, contextlib.ExitStack() as stack:
                print(f"loading {config.model}; http://{_shown(host)}:{port}/ready says when it is there", flush=True)
                try:
                    with stop.at_once():
                        reranker = stack.enter_context(Reranker.of(config.ranking()))
                        stop.install()  # Ray has handlers of its own
                except Stopped:
                    print("stopped while the model was loading")
                    return 0
                front.reranker = reranker
                print(f"serving {front.model} ({config.method}) at http://{_shown(host)}:{port}; the APIs: /docs", flush=True)
                if host not in LOOPBACK and not token:
                    print("r0: anyone who reaches this address can use it; api_key=TOKEN asks for a token", file=sys.stderr)
                front.desk.work(reranker.open(), config.replicas == 1, thread.is_alive)
                if not stop():
                    raise RunFailed("the HTTP server ended by itself")
        print("stopped: every request that had begun was answered")
    return 0


def _shown(host: str) -> str:
    """An address as part of a URL."""
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens.

    Raises:
        UserError: the address does not exist, or another program has the port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"host: {host} is no address of this machine ({reason(error)}); use 127.0.0.1 or 0.0.0.0") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(2048)
        except OSError as error:
            raise UserError(f"port: {host}:{port} cannot be listened on ({reason(error)}); use another port") from None
        yield listener


@contextlib.contextmanager
def running(app: ASGIApp, listener: socket.socket) -> Iterator[threading.Thread]:
    """The HTTP server in a thread, until the block ends; answers that are being sent are finished."""
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=CLOSE_S
    )  # fmt: skip
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, args=([listener],), name="http", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join(timeout=2 * CLOSE_S)
