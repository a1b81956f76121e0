"""Bodies as they travel: bounded and decompressed in pieces on the way in, compressed when asked on the way out."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from windlass_server.errors import Code, ServingError

from .bodies import SMALL_BYTES

PIECE = 1024 * 1024
"""Bytes that are decompressed before the event loop gets its turn."""
_CRUMB_BYTES = 4096
LEAST_COMPRESSED = 1024
"""Smaller answers aren't worth it."""
LARGE = 64 * 1024
"""Answers from here on are compressed in a thread."""

_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int, grew: Callable[[int], None]
) -> bytes:
    """The whole body, decompressed as `Content-Encoding` says (gzip, deflate in the zlib format, or none).

    Nothing beyond `max_bytes` is kept, compressed or not. `grew` is told of each piece that is, before it is added.
    Raises `ServingError` PAYLOAD_TOO_LARGE, or INVALID_ARGUMENT for an unknown encoding and broken data, and what
    `grew` raises; `ClientDisconnect` when the client went away.
    """
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    encoding = headers.get(b"content-encoding")
    if encoding is None:
        return await _read_plain(receive, max_bytes, grew)
    encoding = encoding.strip().lower()
    if encoding in {b"", b"identity"}:
        return await _read_plain(receive, max_bytes, grew)
    if encoding in {b"gzip", b"x-gzip"}:
        return await _Inflation(_GZIP, "gzip", max_bytes, grew).read(receive)
    if encoding == b"deflate":
        return await _Inflation(_ZLIB, "deflate", max_bytes, grew).read(receive)
    shown = encoding.decode("latin-1")[:40]
    raise ServingError(
        Code.INVALID_ARGUMENT, f"Content-Encoding '{shown}' is not supported: send gzip, deflate (zlib) or none"
    )


async def _read_plain(receive: Receive, max_bytes: int, grew: Callable[[int], None]) -> bytes:
    body = _Pieces()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        if body.size + len(chunk) > max_bytes:
            raise _too_large(max_bytes)
        grew(len(chunk))
        if not more and not body.size:
            return chunk
        body.add(chunk)
        del message, chunk  # while the next one is waited for
    return body.whole()


class _Pieces:
    """A body that grows. Thousands of small ones may wait for their end: what has come of them is kept as it came, but
    for crumbs, and only large ones are copied into one."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes | bytearray] = []
        self._crumbs = bytearray()
        """What came last, in pieces too small to be kept by themselves."""

    def add(self, chunk: bytes) -> None:
        """At the end."""
        self.size += len(chunk)
        if self.size > SMALL_BYTES:
            if self._pieces:
                self._crumbs = bytearray().join([*self._pieces, self._crumbs])
                self._pieces.clear()
            self._crumbs += chunk
        elif len(chunk) < _CRUMB_BYTES:
            self._crumbs += chunk
            if len(self._crumbs) >= _CRUMB_BYTES:
                self._keep()
        else:
            self._keep()
            self._pieces.append(chunk)

    def whole(self) -> bytes:
        """All of it."""
        return b"".join([*self._pieces, self._crumbs])

    def _keep(self) -> None:
        if self._crumbs:
            self._pieces.append(bytes(self._crumbs))
            self._crumbs = bytearray()


async def _next_chunk(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


class _Inflation:
    """Decompresses piece by piece and never asks for more than what is left of the bound."""

    def __init__(self, window: int, name: str, max_bytes: int, grew: Callable[[int], None]) -> None:
        self._window = window
        self._grew = grew
        self._name = name
        self._max_bytes = max_bytes
        self._received = 0
        self._body = bytearray()
        self._stream: _Decompressor = zlib.decompressobj(window)

    async def read(self, receive: Receive) -> bytes:
        more = True
        while more:
            chunk, more = await _next_chunk(receive)
            self._received += len(chunk)
            if self._received > self._max_bytes:
                raise _too_large(self._max_bytes)
            await self._take(chunk)
        if not self._stream.eof and self._received:
            raise self._broken("it ends too early")
        return bytes(self._body)

    async def _take(self, data: bytes) -> None:
        while data:
            if self._stream.eof:
                if self._window != _GZIP:
                    raise self._broken("something follows its end")
                self._stream = zlib.decompressobj(self._window)  # gzip allows several members in a row
            # One byte beyond the bound is enough to know that it is passed.
            room = self._max_bytes - len(self._body) + 1
            try:
                piece = self._stream.decompress(data, min(PIECE, room))
            except zlib.error as error:
                raise self._broken(str(error)) from error
            if len(self._body) + len(piece) > self._max_bytes:
                raise _too_large(self._max_bytes)
            self._grew(len(piece))
            self._body += piece
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if len(piece) == PIECE:
                await asyncio.sleep(0)

    def _broken(self, why: str) -> ServingError:
        return ServingError(Code.INVALID_ARGUMENT, f"the body is not {self._name}: {why}")


def _too_large(max_bytes: int) -> ServingError:
    return ServingError(Code.PAYLOAD_TOO_LARGE, f"the body is larger than the {max_bytes} bytes that are read")


async def compress_answer(body: bytes, accept_encoding: bytes) -> tuple[bytes, str | None]:
    """The body as the client wants it, and the name of its encoding (None: as it is)."""
    if not accept_encoding or len(body) < LEAST_COMPRESSED:
        return body, None
    encoding = preferred_encoding(accept_encoding)
    if encoding is None:
        return body, None
    if len(body) < LARGE:
        return _compress(body, encoding), encoding
    return await asyncio.to_thread(_compress, body, encoding), encoding


def _compress(body: bytes, encoding: str) -> bytes:
    return gzip.compress(body, 1, mtime=0) if encoding == "gzip" else zlib.compress(body, 1)


def preferred_encoding(accept_encoding: bytes) -> str | None:
    """gzip or deflate, whichever `Accept-Encoding` rates higher; gzip when it doesn't care, None when neither."""
    rates: dict[bytes, float] = {}
    for item in accept_encoding.lower().split(b","):
        name, _, parameter = item.partition(b";")
        rate = 1.0
        if parameter.strip().startswith(b"q="):
            try:
                rate = float(parameter.strip()[2:])
            except ValueError:
                rate = 0.0
        rates[name.strip()] = rate
    wildcard = rates.get(b"*", 0.0)
    gzip_rate, deflate_rate = rates.get(b"gzip", wildcard), rates.get(b"deflate", wildcard)
    if max(gzip_rate, deflate_rate) <= 0:
        return None
    return "gzip" if gzip_rate >= deflate_rate else "deflate"
