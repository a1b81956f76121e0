"""One request and its answer over HTTP/1.1: uvicorn's, with an answer that leaves in one piece.

uvicorn writes an answer's head and its body apart, each by a call of the system, which wakes the client twice: for a
small answer that costs more than making it. Here the head waits for the body's first piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

_JOINED_BYTES = 64 * 1024
"""Up to here a body is copied behind its head, instead of being written by itself."""
_NO_BODY = frozenset({204, 304})


class RequestCycle(RequestResponseCycle):
    """What an ASGI application gets of a connection. Its `send` is that of uvicorn but for when it writes."""

    _head: bytes = b""
    """Of the answer, while it waits for the body."""

    async def send(self, message: Any) -> None:
        """See ASGI."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if not self.response_started and kind == "http.response.start":
            self._head = self._head_of(message["status"], message.get("headers", ()))
            self.response_started = True
            self.waiting_for_100_continue = False
        elif self.response_started and not self.response_complete and kind == "http.response.body":
            self._write(message.get("body", b""), more=message.get("more_body", False))
        else:
            state = "complete" if self.response_complete else "begun" if self.response_started else "not begun"
            raise RuntimeError(f"unexpected ASGI message '{kind}' for an answer that is {state}")

    async def receive(self) -> Any:
        """See ASGI. Waits only for what isn't there."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            if not self.message_event.is_set():
                await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def _head_of(self, status: int, headers: Any) -> bytes:
        lines = [STATUS_LINE[status]]
        length = connection = None
        for header in (*self.default_headers, *headers):
            lines.append(_line(header))
            name = header[0]
            if name == b"content-length":
                length = header[1]
            elif name == b"connection":
                connection = header[1]
        if length is not None:
            self.expected_content_length = int(length)
            self.chunked_encoding = False
        elif self.scope["method"] != "HEAD" and status not in _NO_BODY:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        if connection is not None and b"close" in [token.strip() for token in connection.lower().split(b",")]:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _write(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length, body = 0, b""
        elif self.chunked_encoding:
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the answer's body is longer than its Content-Length")
        if not more and self.expected_content_length:
            raise RuntimeError("the answer's body is shorter than its Content-Length")
        head, self._head = self._head, b""
        if len(body) <= _JOINED_BYTES:
            self.transport.write(head + body)
        else:
            if head:
                self.transport.write(head)
            self.transport.write(body)
        if not more:
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


@lru_cache(maxsize=256)
def _line(header: tuple[bytes, bytes]) -> bytes:
    """Of an answer's head. Most are those of the answer before. Raises `RuntimeError`."""
    name, value = header
    if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
        raise RuntimeError(f"the answer's header {name!r} has characters that no header may have")
    return b"%s: %s\r\n" % header


class Departure:
    """A connection's transport as its requests see it: closing it leaves the client time to read the answer."""

    def __init__(self, transport: asyncio.Transport, say_goodbye: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = say_goodbye


def refusal_app(status: int, message: str, headers: dict[str, str] | None = None) -> ASGIApp:
    """An application that answers every request like this, and ends the connection."""
    body = orjson.dumps({"error": message})
    sent = {
        "content-type": "application/json", "content-length": str(len(body)), "connection": "close", **(headers or {}),
    }  # fmt: skip
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return refuse
