"""Clients' connections: how long they may take to send and to read, how many there are, how much they may say.

uvicorn's protocol with bounds. It reads a head of any length and waits for a body or for a reader for ever; here each
of these ends by a deadline, which one look at all connections every half second keeps. Connections that wait for their
client (idle, or in the middle of a request that is being sent) make room for new ones, the oldest first; those whose
request is being worked on never do. What is refused below the application is `{"error": "…"}` too. Who is refused in
the middle of sending is listened to for a moment longer: data that meets a closed connection is answered by a reset,
which takes the answer along that the client hasn't read yet.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
import orjson
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from windlass_server.request_cycle import Departure, RequestCycle, refusal_app

SWEEP_SECONDS = 0.5
MAX_HEAD_BYTES = 32 * 1024
"""Of a request's line and headers."""
MAX_HEADERS = 128
MAX_URL_BYTES = 8 * 1024
MAX_PIPELINED = 16
"""Requests that a client sends before the answer to the first; each costs memory until it is its turn."""
LEAVING_SECONDS = 2.0
"""For a client to take note of its last answer."""
_HEAD_TOO_LARGE = f"the request's line and headers have more than {MAX_HEAD_BYTES} bytes"


@dataclass(frozen=True)
class ConnectionLimits:
    """Times in seconds."""

    connections: int = 2048
    keep_alive: float = 75.0
    """Without a byte between two requests."""
    head_timeout: float = 10.0
    """From a request's first byte to the end of its headers."""
    body_timeout: float = 20.0
    """For its body; one second more for each `min_body_rate` bytes that came."""
    min_body_rate: int = 16 * 1024
    """Bytes per second."""
    max_body_bytes: int = 64 * 1024 * 1024
    """More than that is not even thrown away, nor after the last answer."""
    send_timeout: float = 60.0
    """In which a client takes nothing of its answer."""


class Phase(Enum):
    """What a connection waits for."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    LEAVING = "leaving"
    """It has its last answer; what it still sends is thrown away."""


class Ended(Enum):
    """Why one was ended by us, for the metrics."""

    IDLE = "idle"
    HEAD_TIMEOUT = "head_timeout"
    BODY_TIMEOUT = "body_timeout"
    SEND_TIMEOUT = "send_timeout"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    MADE_ROOM = "made_room"
    REFUSED = "refused"


@dataclass
class Connections:
    """All connections of one port."""

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    ended: Counter[Ended] = field(default_factory=Counter)
    open: set[BoundedProtocol] = field(default_factory=set)
    waiting: OrderedDict[BoundedProtocol, None] = field(default_factory=OrderedDict)
    """Those that wait for their client, longest first."""

    def make_room(self) -> bool:
        """Ends the one that has waited longest for its client, if there are as many as may be; False: none waits."""
        if len(self.open) < self.limits.connections:
            return True
        if not self.waiting:
            return False
        oldest, _ = self.waiting.popitem(last=False)
        oldest.make_room()
        return True

    def sweep(self, now: float) -> None:
        """Keeps the deadlines. `now`: seconds of the monotonic clock."""
        for each in list(self.open):
            each.check(now)

    def protocol(self, **options: Any) -> BoundedProtocol:
        """For uvicorn, as its protocol class."""
        return BoundedProtocol(self, **options)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all = connections
        self._limits = connections.limits
        self._phase = Phase.IDLE
        self._since = 0.0
        """When the phase began; later by the time in which we didn't read."""
        self._received = 0
        """Bytes of the head, or of the body."""
        self._head_open = False
        self._head_began = False
        self._head_bytes = 0
        self._head_before = 0
        """Bytes that came before the piece that is being parsed, since the piece that the head began in."""
        self._piece_bytes = 0
        self._unsettled = False
        """The phase changed while a piece is parsed, and may change again before its end."""
        self._message_open = False
        self._foreign = False
        """What comes now is another protocol's: the client asked to change over."""
        self._checked = 0.0
        self._unsent = 0
        self._unsent_since = 0.0

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        return self._phase

    # --- asyncio ---

    def connection_made(self, transport: Any) -> None:
        """Takes the place of one that waits for its client, if there are as many as may be; else its request is 503."""
        room = self._all.make_room()
        super().connection_made(transport)
        self._departure = Departure(transport, self.say_goodbye)
        self._all.open.add(self)
        self._checked = time.monotonic()
        self._enter(Phase.IDLE)
        if not room:
            self.app = refusal_app(503, "all connections are in use: come back later", {"retry-after": "1"})
            if len(self._all.open) > 2 * self._limits.connections:
                self._end(Ended.REFUSED)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets it."""
        self._all.open.discard(self)
        self._all.waiting.pop(self, None)
        super().connection_lost(exc)
        # Requests that wait behind the one being answered have nobody to be answered to.
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        """Parses; whatever can't be a request ends the connection."""
        if self._phase is Phase.LEAVING:
            self._received += len(data)
            if self._received > self._limits.max_body_bytes:
                self.transport.abort()
            return
        if self.transport.is_closing() or self._foreign:
            return
        if self._phase is Phase.IDLE:
            self._phase, self._received, self._unsettled = Phase.HEAD, 0, True
        self._piece_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._foreign = True  # the request is answered as a plain one, and that's all
            self.cycle.keep_alive = False
            return
        except httptools.HttpParserError as error:
            self._invalid(error)
            return
        if self._unsettled:
            self._settle()
        if not self._head_open:
            return
        self._head_before += len(data)
        # Of the piece that it began in we don't know how much is its; that piece is bounded by the transport.
        self._head_bytes += 0 if self._head_began else len(data)
        self._head_began = False
        if self._head_bytes > MAX_HEAD_BYTES:
            self._count(Ended.TOO_LARGE)
            self._answer_and_end(431, _HEAD_TOO_LARGE)

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        """A head follows."""
        self._head_open = self._head_began = True
        self._head_bytes = self._head_before = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Starts the request, or the refusal of it."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _TooManyError
        self._head_open = False
        before = self.cycle
        self.cycle = self._new_cycle()
        app = self._refused() or self.app
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))
        self._message_open = True
        if not self.pipeline:
            self._phase, self._received, self._unsettled = Phase.BODY, 0, True

    def _new_cycle(self) -> RequestCycle:
        path, raw_path, query = _url_parts(self.url)
        version = self.parser.get_http_version()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = path
        self.scope["raw_path"] = raw_path
        self.scope["query_string"] = query
        return RequestCycle(
            scope=self.scope,
            transport=self._departure,  # type: ignore[arg-type]  # all of a transport that it uses
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        """Keeps it for the application, and counts."""
        self._received += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            if self._received > self._limits.max_body_bytes:
                raise _TooManyError  # the answer was given, and the rest is only thrown away
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """From now on it is us that it waits for."""
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()
        self._message_open = False
        if not self.pipeline:
            self._enter(Phase.IDLE if self.cycle.response_complete else Phase.ANSWER)

    def on_response_complete(self) -> None:
        """The next request, or a wait for one. uvicorn's timer for each such wait isn't needed: `check` keeps it."""
        self.server_state.total_requests += 1
        if self._phase is Phase.LEAVING or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self.pipeline:
            return
        if self._message_open:
            if self._phase is not Phase.BODY:  # a body that is still coming has its own deadline
                self._enter(Phase.BODY)
        elif self.cycle.response_complete:
            # Bytes of the next head may be here already.
            self._enter(Phase.HEAD if self._head_open else Phase.IDLE)

    # --- deadlines ---

    def check(self, now: float) -> None:
        """Ends the connection if its client has taken too long."""
        passed, self._checked = now - self._checked, now
        if self._stuck_in_sending(now):
            self._end(Ended.SEND_TIMEOUT)
        if self.transport.is_closing() or self._phase is Phase.ANSWER:
            return
        if self.flow.read_paused:
            self._since += passed  # it isn't the client that is slow
            return
        waited = now - self._since
        if self._phase is Phase.LEAVING:
            if waited > LEAVING_SECONDS:
                self.transport.close()
        elif self._phase is Phase.IDLE:
            if waited > self._limits.keep_alive and not self._unsent:  # else it is still taking the answer
                self._end(Ended.IDLE)
        elif self._phase is Phase.HEAD:
            if waited > self._limits.head_timeout:
                self._count(Ended.HEAD_TIMEOUT)
                self._answer_and_end(408, f"the request's headers didn't arrive within {self._limits.head_timeout:g} s")
        elif waited > self._limits.body_timeout + self._received / self._limits.min_body_rate:
            self._count(Ended.BODY_TIMEOUT)
            self._answer_and_end(408, "the request's body arrives too slowly")

    def make_room(self) -> None:
        """Ends it for the sake of another: it has waited longest."""
        if self._phase is Phase.LEAVING:
            self.transport.abort()
        elif self._phase is Phase.IDLE:
            self._end(Ended.MADE_ROOM)
        else:
            self._count(Ended.MADE_ROOM)
            self._answer_and_end(408, "the request arrives too slowly while others wait", at_once=True)

    def _stuck_in_sending(self, now: float) -> bool:
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent or not self._unsent_since:
            self._unsent_since = now
        self._unsent = unsent
        return unsent > 0 and now - self._unsent_since > self._limits.send_timeout

    # --- helpers ---

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._received = 0
        self._settle()

    def _settle(self) -> None:
        """The phase begins now, and will last."""
        self._unsettled = False
        self._since = time.monotonic()
        self._all.waiting.pop(self, None)
        if self._phase is not Phase.ANSWER:
            self._all.waiting[self] = None

    def _refused(self) -> Any:
        """An application that says why, or None."""
        if len(self.url) > MAX_URL_BYTES:
            refusal = refusal_app(414, f"the URL has {len(self.url)} bytes; {MAX_URL_BYTES} are read")
        elif len(self.headers) > MAX_HEADERS:
            refusal = refusal_app(431, f"the request has {len(self.headers)} headers; {MAX_HEADERS} are read")
        elif self._head_before + self._piece_bytes <= MAX_HEAD_BYTES:  # nearly all
            return None
        elif len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            refusal = refusal_app(431, _HEAD_TOO_LARGE)
        else:
            return None
        self._count(Ended.TOO_LARGE)
        return refusal

    def _invalid(self, error: httptools.HttpParserError) -> None:
        if isinstance(error.__context__, _TooManyError):
            self._end(Ended.TOO_LARGE)
            return
        self._count(Ended.INVALID)
        self._answer_and_end(400, "the request is no valid HTTP")

    def _answer_and_end(self, status: int, message: str, *, at_once: bool = False) -> None:
        """Closes the connection; with this answer, if it is the turn of one. `at_once`: its place is needed."""
        cycle = self.cycle
        if self._phase is Phase.BODY:
            its_turn = not (cycle.response_started or cycle.response_complete or self.pipeline)
        else:
            its_turn = self._phase is Phase.HEAD
        if its_turn:
            body = orjson.dumps({"error": message})
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self._leave()
        if its_turn and not at_once:
            self._await_departure()
        else:
            self.transport.close()

    def say_goodbye(self) -> None:
        """Ends the connection after an answer."""
        if self._message_open or self._foreign:
            self._await_departure()
        else:
            self.transport.close()

    def _await_departure(self) -> None:
        if self.transport.is_closing() or self._phase is Phase.LEAVING:
            return
        self.pipeline.clear()
        self._enter(Phase.LEAVING)
        self.flow.resume_reading()
        if self.transport.can_write_eof():  # TLS has no such thing
            self.transport.write_eof()

    def _leave(self) -> None:
        """The application hears that nobody listens any more."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _end(self, why: Ended) -> None:
        self._count(why)
        self._leave()
        self.transport.abort()

    def _count(self, why: Ended) -> None:
        self._all.ended[why] += 1


@lru_cache(maxsize=256)
def _url_parts(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, path as it was sent, and query. Nearly all requests have a URL that others had before. Raises
    `httptools.HttpParserInvalidURLError`, which isn't remembered."""
    parts = httptools.parse_url(url)
    path = parts.path.decode("ascii")
    return unquote(path) if "%" in path else path, parts.path, parts.query or b""


class _TooManyError(Exception):
    """A client that sends what nobody will look at."""
