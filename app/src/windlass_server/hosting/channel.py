"""Main's end of a worker's channel: many requests at a time over one socket, answers in any order.

Copies of a numeric tensor on its way to the worker: one into the socket, one out of it into the worker's buffer; the
same again on the way back. There is none in this process besides: `sendmsg` takes the caller's memory, the answer's
arrays are views of the buffer that the kernel filled. (TensorFlow then makes its own copy of an input.)

It reads and writes the socket itself in the event loop's callbacks. asyncio's transports would copy once more, and a
request would take two more turns of the loop. What is sent in one turn goes in one call of the system, which wakes the
worker once.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from windlass_server.hosting.frames import (
    MAX_BUFFERS,
    PREFIX,
    Buffer,
    FrameError,
    advance,
    allocate,
    decode,
    encode,
    lengths,
    size_of,
)
from windlass_server.tensors import Tensor, unpacked_size

Answer = tuple[dict[str, Any], dict[str, Tensor]]

_READ_AHEAD = 64 * 1024
_READS_PER_TURN = 16
"""Then others get their turn of the event loop."""
_SOCKET_BUFFER = 4 * 1024 * 1024
_PACK_FROM = 64 * 1024
"""Bytes from which on strings aren't taken apart here: a million of them would hold the event loop."""


class ChannelClosedError(Exception):
    """The worker is gone, or what it sent can't be read; the message says which."""


class RequestTooLargeError(ValueError):
    """A request beyond the bound of what a worker takes."""


Outcome = Answer | ChannelClosedError
"""Of a request that was sent."""


class WorkerChannel:
    """Belongs to the event loop it was made in."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        max_request_bytes: int,
        max_answer_bytes: int,
        on_close: Callable[[str], None],
        pixels: bool = False,
    ) -> None:
        """`pixels`: what the other side answers may be packed. `on_close` is called once, with the reason, when the
        other side ends or breaks the rules; not by `close`."""
        connection.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER)  # the kernel gives what it allows
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._max_request_bytes = max_request_bytes
        self._max_answer_bytes = max_answer_bytes
        self._on_close = on_close
        self._pixels = pixels
        self._waiting: dict[int, Callable[[Outcome], None]] = {}
        self._next_id = 0
        self._closed: str | None = None
        self._outgoing: deque[list[Buffer]] = deque()
        self._buffer = allocate(_READ_AHEAD)
        self._filled = 0
        self._payload: memoryview | None = None
        """Of a frame that is larger than the buffer: it is received where it stays."""
        self._payload_filled = 0
        self._payload_head = 0
        self._loop.add_reader(connection, self._on_readable)

    @property
    def unanswered(self) -> int:
        """Requests that the worker has, or is being sent."""
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """No request can be sent any more."""
        return self._closed is not None

    def send(self, head: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> asyncio.Future[Answer]:
        """Sends a request. The future ends with the answer, or `ChannelClosedError`. Cancelling it takes back nothing:
        the worker's answer is then thrown away when it comes. Raises `RequestTooLargeError`, and `ValueError` for
        tensors that can't be sent."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        try:
            self.post(head, tensors, lambda outcome: settle(future, outcome))
        except ChannelClosedError as error:
            future.set_exception(error)
        return future

    def post(self, head: dict[str, Any], tensors: Mapping[str, Tensor] | None, then: Callable[[Outcome], None]) -> None:
        """Sends a request. `then` is called with what comes of it, once, out of a later turn of the event loop. Raises
        as `send`, and `ChannelClosedError`."""
        if self._closed is not None:
            raise ChannelClosedError(self._closed)
        self._next_id += 1
        pieces = encode({**head, "id": self._next_id}, tensors)
        size = size_of(pieces) + (unpacked_size(tensors.values()) if tensors else 0)
        if size > self._max_request_bytes:
            raise RequestTooLargeError(f"the request has {size} bytes; at most {self._max_request_bytes} are taken")
        self._waiting[self._next_id] = then
        self._outgoing.append(pieces)
        if len(self._outgoing) == 1:
            self._loop.call_soon(self._begin_to_send)

    def close(self) -> None:
        """Ends the channel: the worker sees the end and exits. What is unanswered fails."""
        self._end("the channel was closed")

    def _end(self, reason: str) -> None:
        if self._closed is not None:
            return
        self._closed = reason
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._outgoing.clear()
        waiting, self._waiting = self._waiting, {}
        for then in waiting.values():
            then(ChannelClosedError(reason))

    def _fail(self, reason: str) -> None:
        if self._closed is None:
            self._end(reason)
            self._on_close(reason)

    def _begin_to_send(self) -> None:
        if self._closed is None and not self._flush():
            self._loop.add_writer(self._socket, self._on_writable)

    def _on_writable(self) -> None:
        if self._flush():
            self._loop.remove_writer(self._socket)

    def _flush(self) -> bool:
        """Writes what the socket takes. Returns whether nothing is left."""
        try:
            while self._outgoing:
                pieces = [piece for frame in self._outgoing for piece in frame]
                sent = self._socket.sendmsg(pieces[:MAX_BUFFERS], [], socket.MSG_NOSIGNAL)
                rest = advance(pieces, sent)
                self._outgoing.clear()
                if rest:
                    self._outgoing.append(rest)
        except BlockingIOError:
            return False
        except OSError:
            return True  # the reading side sees the end, with what the worker still said
        return True

    def _on_readable(self) -> None:
        try:
            for _ in range(_READS_PER_TURN):
                if not self._read():
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"the worker's channel broke: {error.strerror}")
        except FrameError as error:
            self._fail(f"the worker sent {error}")

    def _read(self) -> bool:
        """One `recv`. Returns whether there may be more: not after one that took all there was."""
        if self._payload is not None:
            wanted = len(self._payload) - self._payload_filled
            count = self._socket.recv_into(self._payload[self._payload_filled :])
            self._payload_filled += count
            if count and self._payload_filled == len(self._payload):
                payload, self._payload = self._payload, None
                self._answered(payload, self._payload_head)
        else:
            wanted = len(self._buffer) - self._filled
            count = self._socket.recv_into(self._buffer[self._filled :])
            self._filled += count
            if count:
                self._take_frames()
        if not count:
            self._fail("the worker ended")
        return count == wanted and self._closed is None

    def _take_frames(self) -> None:
        """Takes all complete frames out of the buffer; a large one's beginning goes to a buffer of its own size."""
        start = 0
        while self._filled - start >= PREFIX.size and self._closed is None:
            head, body = lengths(self._buffer[start : self._filled], self._max_answer_bytes)
            size = head + body
            begin = start + PREFIX.size
            have = min(self._filled - begin, size)
            if have < size and PREFIX.size + size <= len(self._buffer):
                break  # the rest comes into this buffer
            payload = allocate(size)
            payload[:have] = self._buffer[begin : begin + have]
            start = begin + have
            if have < size:
                self._payload, self._payload_filled, self._payload_head = payload, have, head
            else:
                self._answered(payload, head)
        if start and self._closed is None:
            left = self._filled - start
            self._buffer[:left] = bytes(self._buffer[start : self._filled])
            self._filled = left

    def _answered(self, payload: memoryview, head_bytes: int) -> None:
        head, tensors = decode(payload, head_bytes, _PACK_FROM, pixels=self._pixels)
        identity = head.get("id")
        then = self._waiting.pop(identity, None) if isinstance(identity, int) else None
        if then is None:
            raise FrameError("an answer that nobody asked for")
        then((head, tensors))


def settle(future: asyncio.Future[Answer], outcome: Outcome) -> None:
    """Ends a future with it, unless whoever waited is gone."""
    if future.done():
        return
    if isinstance(outcome, ChannelClosedError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
