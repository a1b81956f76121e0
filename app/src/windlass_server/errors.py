"""What can go wrong with a request, in gRPC's words; each protocol says it in its own way."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """The status codes that TensorFlow Serving and the Open Inference Protocol map to HTTP."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    NOT_FOUND = "NOT_FOUND"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    """Ours: gRPC has no word for HTTP's 413."""
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"


HTTP_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.NOT_FOUND: 404,
    Code.PAYLOAD_TOO_LARGE: 413,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.INTERNAL: 500,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


class ServingError(Exception):
    """A request that can't be answered: why, for the client."""

    def __init__(self, code: Code, message: str, *, retry_after: int | None = None, unread: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        """Seconds, for `Retry-After`."""
        self.unread = unread
        """The request's body was not read to its end: the connection is of no use any more."""

    @property
    def http_status(self) -> int:
        """The status that all our protocols answer with."""
        return HTTP_STATUS[self.code]
