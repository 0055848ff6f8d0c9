"""What stands before the routes: the bearer token, the size of a body and the time it may take to arrive, and the metrics.

A body is read here, whole, before anything else is done with the request, so that a client that sends slowly holds nothing but
what it has sent.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from r0.serve.refusals import Kind, Refusal, Shape, body_of, headers_of, shape_of, status_of

BODY_S = 30.0  # seconds in which a body must have arrived
LINGER_S = 5.0  # seconds for which the rest of a refused body is read, so that its sender sees the refusal

Answered = Callable[[str, int, float], None]


class Guard:
    """ASGI middleware for the requests with a body.

    Args:
        app: what answers them.
        token: bearer token that they must have; empty: none.
        max_body: maximum size of a body in bytes.
        check_open: raises a ``Refusal`` while no request can be begun.
        answered: is told path, status and seconds of each request.
    """

    def __init__(self, app: ASGIApp, token: str, max_body: int, check_open: Callable[[], None], answered: Answered):
        self._app, self._token, self._max_body = app, token.strip().encode(), max_body
        self._check_open, self._answered = check_open, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        shape = shape_of(scope["path"], headers)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._check_token(headers)
                self._check_open()
                body = await self._body(headers, receive)
            except Refusal as refusal:
                await _refuse(noting, shape, refusal)
                if refusal.kind is Kind.LARGE:
                    await _read_on(receive)
                return
            await self._app(scope, _replay(body, receive), noting)
        finally:
            route = scope.get("route")
            self._answered(getattr(route, "path", "other"), status, time.monotonic() - began)

    def _check_token(self, headers: dict[str, str]) -> None:
        """Refuse a request without the token."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if self._token and not (scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token)):
            raise Refusal(Kind.TOKEN, "invalid api token: send the server's token as Authorization: Bearer TOKEN")

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        """The whole body.

        Raises:
            Refusal: it is not JSON by its header, is too large, takes too long, or its client has gone.
        """
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(Kind.MEDIA, "Content-Type must be application/json")
        length = headers.get("content-length", "")
        large = Refusal(Kind.LARGE, f"the body is larger than {self._max_body / 1e6:g} MB (max_body_mb)")
        if length.isdecimal() and int(length) > self._max_body:
            raise large
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(Kind.GONE, "the client has gone")
                    size += len(message.get("body", b""))
                    if size > self._max_body:
                        raise large
                    parts.append(message.get("body", b""))
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(Kind.SLOW, f"the body did not arrive within {BODY_S:g} seconds") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` that gives the body once, and then what comes after it."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _refuse(send: Send, shape: Shape, refusal: Refusal) -> None:
    content = json.dumps(body_of(shape, refusal), ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), **headers_of(refusal)}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status_of(shape, refusal.kind), "headers": pairs})
    await send({"type": "http.response.body", "body": content})


async def _read_on(receive: Receive) -> None:
    """Read and drop the rest of a body for a while: a client that is still sending would otherwise see a broken connection."""
    try:
        async with asyncio.timeout(LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except TimeoutError:
        return
