"""Which web pages may ask from a browser: the origins that were set. Off unless one is.

Credentials of the browser (cookies) are never asked for: an API key is a header that the page sends itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ANY = "*"
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_METHODS = b"GET, HEAD, POST, OPTIONS"
_ASKED = b"Authorization, Content-Type, Content-Encoding, X-API-Key, X-Request-Id, Inference-Header-Content-Length"
_SHOWN = (
    b"X-Model-Version, X-Model-Digest, X-Plan-Epoch, X-Instance, X-Request-Id, Inference-Header-Content-Length, "
    b"Retry-After, WWW-Authenticate"
)
_MAX_AGE = b"600"


def check_origin(origin: str) -> str:
    """The origin as browsers send it, or `*`. Raises `ValueError`."""
    if origin != ANY and not _ORIGIN.fullmatch(origin):
        raise ValueError(
            f"{origin!r} is no origin: scheme, host in lower case and port are expected, as in https://app.example.com "
            "or http://localhost:3000; * for any"
        )
    return origin


class Cors:
    """Answers preflights of these origins, and tells browsers that they may show them the answers."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._any = ANY in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, unless it is a preflight of an origin that is allowed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        allowed = self._allow(headers.get(b"origin"))
        if allowed and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await send({"type": "http.response.start", "status": 204, "headers": [*allowed, *_preflight()]})
            await send({"type": "http.response.body", "body": b""})
            return
        # Whether an answer is for one origin alone, caches have to know of each answer.
        extra = allowed if self._any else [*allowed, (b"vary", b"Origin")]
        if allowed:
            extra = [*extra, (b"access-control-expose-headers", _SHOWN)]

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self._app(scope, receive, send_marked)

    def _allow(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        if origin is None:
            return []
        if self._any:
            return [(b"access-control-allow-origin", b"*")]
        return [(b"access-control-allow-origin", origin)] if origin in self._origins else []


def _preflight() -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _ASKED),
        (b"access-control-max-age", _MAX_AGE),
        (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        (b"content-length", b"0"),
    ]
