"""Why a request is refused, and how each of the imitated servers says so: the status and the shape of the body.

Jina: ``{"detail": …}``. Cohere: ``{"message": …}``. vLLM: ``{"error": {"message", "type", "param", "code"}}``.
text-embeddings-inference (TEI): ``{"error", "error_type"}``. On ``/v1/rerank``, where clients of Jina and of vLLM look alike, the
body has both ``detail`` and ``error``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any

RETRY_AFTER_S = 1


class Kind(Enum):
    """What is wrong; the value is the status in vLLM's and Cohere's API."""

    NOT_JSON = 400, "not JSON"
    INVALID = 400, "a field is missing or has the wrong type"
    LIMIT = 400, "nothing to rank, or too much for one request"
    TOKEN = 401, "no bearer token, or a wrong one"
    MODEL = 404, "another model"
    PATH = 404, "nothing is at this path"
    METHOD = 405, "the path takes another method"
    SLOW = 408, "the body took too long to arrive"
    LARGE = 413, "the body is too large"
    MEDIA = 415, "not declared as JSON"
    GONE = 499, "the client has gone"
    BUSY = 429, "too many requests"
    FAILED = 500, "the server's fault"
    UNAVAILABLE = 503, "the model is loading, or the server stops"
    LATE = 504, "the deadline has passed"

    @property
    def status(self) -> int:
        """The usual HTTP status."""
        return self.value[0]


class Refusal(Exception):
    """A request that is not answered with results.

    Args:
        kind: what is wrong.
        message: one sentence for the client.
        param: the field that is wrong, if it is one.
    """

    def __init__(self, kind: Kind, message: str, param: str | None = None):
        super().__init__(message)
        self.kind, self.message, self.param = kind, message, param


class Shape(Enum):
    """The servers that are imitated."""

    JINA = "jina"
    COHERE = "cohere"
    VLLM = "vllm"
    TEI = "tei"


_TEI_TYPES = {
    Kind.BUSY: "Overloaded",
    Kind.UNAVAILABLE: "Unhealthy",
    Kind.FAILED: "Backend",
    Kind.LATE: "Backend",
}
_STATUS = {
    Shape.JINA: {Kind.NOT_JSON: 422, Kind.INVALID: 422, Kind.LIMIT: 422},
    Shape.TEI: {Kind.INVALID: 422, Kind.LIMIT: 413, Kind.FAILED: 424},
    Shape.VLLM: {Kind.MEDIA: 400},
}


def shape_of(path: str, headers: Mapping[str, str]) -> Shape:
    """The API that a request speaks. ``/v1/rerank`` has two: Cohere's own clients name themselves.

    Args:
        path: of the request.
        headers: by names in lower case.
    """
    if path.endswith("/score"):
        return Shape.VLLM
    if path == "/rerank":
        return Shape.TEI
    named = headers.get("x-fern-sdk-name", "") + headers.get("user-agent", "")
    return Shape.COHERE if path.startswith("/v2") or "cohere" in named.lower() else Shape.JINA


def status_of(shape: Shape, kind: Kind) -> int:
    """The status with which a server refuses."""
    return _STATUS.get(shape, {}).get(kind, kind.status)


def body_of(shape: Shape, refusal: Refusal) -> dict[str, Any]:
    """The body with which a server refuses."""
    status = status_of(shape, refusal.kind)
    if shape is Shape.COHERE:
        return {"message": refusal.message}
    if shape is Shape.TEI:
        return {"error": refusal.message, "error_type": _TEI_TYPES.get(refusal.kind, "Validation")}
    error = {"message": refusal.message, "type": _phrase(status), "param": refusal.param, "code": status}
    return {"error": error} if shape is Shape.VLLM else {"detail": refusal.message, "error": error}


def headers_of(refusal: Refusal) -> dict[str, str]:
    """The headers that go with a refusal."""
    if refusal.kind in (Kind.BUSY, Kind.UNAVAILABLE):
        return {"Retry-After": str(RETRY_AFTER_S)}
    if refusal.kind is Kind.TOKEN:
        return {"WWW-Authenticate": "Bearer"}
    return {"Connection": "close"} if refusal.kind in (Kind.SLOW, Kind.LARGE) else {}


def _phrase(status: int) -> str:
    return "Client Closed Request" if status == Kind.GONE.status else HTTPStatus(status).phrase
