"""One request and its answer below FastAPI's machinery: plain ASGI, since these paths are the hot ones.

FastAPI matches, validates and injects for each request; model protocols validate by their own rules, so theirs are
routes of this kind. Whatever goes wrong leaves as `{"error": "…"}` of type `application/json`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import orjson
import structlog
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from windlass_server.errors import Code, ServingError

from .bodies import SMALL_BYTES, Bodies, Body, no_room
from .compression import LEAST_COMPRESSED, compress_answer, read_body
from .limits import Limits

JSON = "application/json"
_log = structlog.get_logger(__name__)


class Request:
    """What a handler sees of a request."""

    __slots__ = ("_limits", "_receive", "arriving", "headers", "method", "scope")

    def __init__(self, scope: Scope, receive: Receive, limits: Limits, arriving: Body) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        """As sent, in capitals."""
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        """By lower-case name; of a repeated one, the last."""
        self.arriving = arriving
        """Counts what is received."""
        self._receive = receive
        self._limits = limits

    @property
    def path(self) -> str:
        """As sent, still URL-encoded, without the query."""
        raw = self.scope.get("raw_path") or self.scope["path"].encode()
        return bytes(raw).partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> dict[str, list[str]]:
        """The query's parameters."""
        return parse_qs(self.scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)

    @property
    def request_id(self) -> str:
        """The client's, else ours."""
        return str(self.scope["state"]["request_id"])

    async def body(self) -> bytes:
        """The decompressed body. Raises `ServingError` PAYLOAD_TOO_LARGE, INVALID_ARGUMENT or RESOURCE_EXHAUSTED."""
        try:
            return await read_body(self._receive, self.headers, self._limits.max_body_bytes, self.arriving.grew)
        except asyncio.CancelledError:
            if self.arriving.interrupted():
                raise no_room() from None
            raise
        finally:
            self.arriving.settle()


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = MappingProxyType({})


Handler = Callable[[Request], Awaitable[Answer]]


class ModelError(Exception):
    """A `ServingError` of a request that a version had been chosen for: its headers go on the answer too."""

    def __init__(self, error: ServingError, headers: Mapping[str, str]) -> None:
        super().__init__(error.message)
        self.error = error
        self.headers = headers


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Serialises plain JSON."""
    return Answer(status, orjson.dumps(value), headers=headers or {})


def error_answer(error: ServingError, headers: Mapping[str, str] | None = None) -> Answer:
    """An error as every protocol here words it; 429 says when to come back."""
    extra = dict(headers or {})
    retry_after = error.retry_after
    if retry_after is None and error.code is Code.RESOURCE_EXHAUSTED:
        retry_after = 1
    if retry_after is not None:
        extra["retry-after"] = str(retry_after)
    if error.code is Code.PAYLOAD_TOO_LARGE or error.unread:
        extra["connection"] = "close"  # the rest of the body was not read
    return Answer(error.http_status, orjson.dumps({"error": error.message}), headers=extra)


def method_not_allowed(*allowed: str) -> Answer:
    """405 with the methods that are."""
    return json_answer({"error": "Method Not Allowed"}, 405, {"allow": ", ".join(allowed)})


class ProtocolRoute(BaseRoute):
    """All paths that match a pattern, whatever the method: the protocol itself says what is wrong with a request."""

    def __init__(self, pattern: str, handler: Handler, limits: Limits, bodies: Bodies) -> None:
        self._pattern = re.compile(pattern, re.IGNORECASE | re.ASCII | re.DOTALL)
        self._handler = handler
        self._limits = limits
        self._bodies = bodies

    def answers(self, path: str) -> bool:
        """Whether the path is one of its own."""
        return self._pattern.fullmatch(path) is not None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """By path alone."""
        return (Match.FULL if scope["type"] == "http" and self.answers(scope["path"]) else Match.NONE), {}

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        """These routes have no names."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; never raises but for cancellation."""
        with self._bodies.body() as arriving:
            request = Request(scope, receive, self._limits, arriving)
            try:
                answer = await self._handler(request)
                arriving.is_answered(len(answer.body))
            except ClientDisconnect:
                return  # nobody listens any more
            except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client gets an answer
                answer = _answer_to(error, request)
            await send_answer(request, answer, send)


def _answer_to(error: Exception, request: Request) -> Answer:
    if isinstance(error, ServingError):
        return error_answer(error)
    if isinstance(error, ModelError):
        return error_answer(error.error, error.headers)
    _log.error("request failed", path=request.path, request_id=request.request_id, exc_info=error)
    return error_answer(
        ServingError(Code.INTERNAL, f"internal error; the log has it under request id {request.request_id}")
    )


async def send_answer(request: Request, answer: Answer, send: Send) -> None:
    """Sends it, compressed when the client asked; without its body for HEAD. Returns when it is taken, nearly."""
    status, body, content_type, extra = answer
    encoding = None
    if len(body) >= LEAST_COMPRESSED and (accepted := request.headers.get(b"accept-encoding")):
        body, encoding = await compress_answer(body, accepted)
    headers = [
        _encoded("content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        *[_encoded(name, value) for name, value in extra.items()],
    ]
    if encoding:
        headers += [(b"content-encoding", encoding.encode()), (b"vary", b"Accept-Encoding")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    shown = b"" if request.method == "HEAD" else body
    if len(shown) > SMALL_BYTES:
        await send({"type": "http.response.body", "body": shown, "more_body": True})
        shown = b""  # whoever sends it waits until the piece before is on its way
    await send({"type": "http.response.body", "body": shown})


@lru_cache(maxsize=256)
def _encoded(name: str, value: str) -> tuple[bytes, bytes]:
    """Nearly all are those of the answer before: version, digest, epoch."""
    return name.encode("latin-1"), value.encode("latin-1")
