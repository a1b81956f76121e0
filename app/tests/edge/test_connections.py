"""Connections with clients that are slow, silent, rude or many, on real sockets against a port of our own."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import pytest
import uvloop

from windlass_server.connections import ConnectionLimits, Connections, Ended, Phase
from windlass_server.listening import Listener
from windlass_testing.waiting import until

pytestmark = pytest.mark.hardening

SHORT = ConnectionLimits(
    connections=8, keep_alive=1.0, head_timeout=1.0, body_timeout=1.0, min_body_rate=100_000, max_body_bytes=200_000,
    send_timeout=1.0,
)  # fmt: skip
HEAD = "the request's line and headers have more than 32768 bytes"
INVALID = "the request is no valid HTTP"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Echo:
    """Says how long the body was; `/early` without reading it, `/refuse` so too, and with the end of the connection,
    `/slow` when told, `/big` with 64 MiB."""

    def __init__(self):
        self.go = asyncio.Event()
        self.bodies = []
        self.left = 0

    async def __call__(self, scope, receive, send):
        body = b""
        if scope["path"] not in {"/early", "/refuse"}:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.left += 1
                    return
                body += message["body"]
                more = message["more_body"]
        if scope["path"] == "/slow":
            await self.go.wait()
        self.bodies.append(len(body))
        answer = b"x" * (64 * 2**20) if scope["path"] == "/big" else b"%d" % len(body)
        headers = [(b"content-length", b"%d" % len(answer))]
        if scope["path"] == "/refuse":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


class Port:
    def __init__(self, listener, app):
        self.listener, self.app = listener, app
        self.writers = []
        self.address = ("127.0.0.1", int(listener.url.rpartition(":")[2]))

    @property
    def ended(self):
        return {reason.value: count for reason, count in self.listener.connections.ended.items()}

    async def open(self, *data):
        reader, writer = await asyncio.open_connection(*self.address)
        self.writers.append(writer)
        for each in data:
            writer.write(each)
        await writer.drain()
        return reader, writer

    async def exchange(self, *data):
        """Everything that comes until the connection ends."""
        reader, writer = await self.open(*data)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def is_cut_off(self, writer, piece, times):
        """Sends until the other side ends the connection."""
        with pytest.raises(ConnectionError):  # noqa: PT012 - which of them fails is the kernel's choice
            for _ in range(times):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)


@asynccontextmanager
async def port(limits=SHORT):
    app = Echo()
    listener = Listener("127.0.0.1", 0, "tests", "--port")
    await listener.open(app, connections=Connections(limits))
    made = Port(listener, app)
    try:
        yield made
    finally:
        app.go.set()
        for writer in made.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in made.writers), return_exceptions=True)
        await listener.close(1)


def run(test):
    """A coroutine function as a test with a generous deadline."""

    def wrapped():
        async def bounded():
            async with asyncio.timeout(60):
                await test()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(bounded())

    wrapped.__name__ = test.__name__
    return wrapped


def parse(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def refused(answer):
    status, body = parse(answer)
    return status, json.loads(body)["error"]


@run
async def test_a_head_that_trickles_is_cut_off():
    async with port() as at:
        reader, writer = await at.open(b"GET / HTTP/1.1\r\n")

        async def trickle():
            for _ in range(200):
                writer.write(b"a: b\r\n")
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        assert refused(await reader.read()) == (408, "the request's headers didn't arrive within 1 s")
        trickling.cancel()
        writer.close()
        assert at.ended == {"head_timeout": 1}


@run
async def test_a_body_that_trickles_is_cut_off_and_the_application_hears_of_it():
    async with port() as at:
        reader, writer = await at.open(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")

        async def trickle():
            for _ in range(200):
                writer.write(b"x" * 100)
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        assert refused(await reader.read()) == (408, "the request's body arrives too slowly")
        trickling.cancel()
        writer.close()
        assert at.ended == {"body_timeout": 1}
        await until(lambda: at.app.left == 1)


@run
async def test_who_goes_on_sending_reads_the_refusal_all_the_same():
    async with port() as at:
        for _ in range(50):
            reader, writer = await at.open(b"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n")
            await until(lambda: Phase.LEAVING in {each.phase for each in at.listener.connections.open})
            for _ in range(10):  # each would meet a closed connection, and the first be answered by a reset
                writer.write(b"x" * 10_000)
                await writer.drain()
            assert parse(await reader.read()) == (200, b"0")
            writer.close()
            await until(lambda: not at.listener.connections.open)


@run
async def test_who_only_goes_on_sending_is_cut_off_in_the_end():
    async with port() as at:
        refuse = b"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n"
        _, much = await at.open(refuse)
        await at.is_cut_off(much, b"x" * 9000, 1000)
        _, long = await at.open(refuse)
        await until(lambda: len(at.listener.connections.open) == 1)
        await at.is_cut_off(long, b"x", 60_000)
        assert at.ended == {}


@run
async def test_a_body_as_fast_as_asked_may_take_longer():
    async with port() as at:
        reader, writer = await at.open(
            b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 400000\r\n\r\n"
        )
        for _ in range(20):  # 2 s, twice the deadline without a rate
            writer.write(b"x" * 20_000)
            await asyncio.sleep(0.1)
        assert parse(await reader.read()) == (200, b"400000")
        writer.close()
        assert at.ended == {}


@run
async def test_time_in_which_nobody_reads_is_not_the_clients():
    async with port() as at:
        # The second request waits behind the first, whose answer takes longer than any deadline.
        slow = b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"
        reader, writer = await at.open(
            slow, b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\n"
        )
        await asyncio.sleep(2.5)
        at.app.go.set()
        writer.write(b"hello")
        assert (await reader.read()).endswith(b"\r\n\r\n5")
        writer.close()
        assert at.ended == {}


@run
async def test_silence_is_ended_after_keep_alive():
    async with port() as at:
        assert await at.exchange() == b""
        reader, writer = await at.open(GET)
        assert parse(await reader.read()) == (200, b"0")
        writer.close()
        assert at.ended == {"idle": 2}


@run
async def test_who_does_not_read_its_answer_is_cut_off():
    async with port() as at:
        with socket.create_connection(at.address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
            await until(lambda: bool(at.ended))
        assert at.ended == {"send_timeout": 1}
        await until(lambda: not at.listener.connections.waiting)


@pytest.mark.parametrize(
    ("head", "status", "error"),
    [
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414, "the URL has 9001 bytes; 8192 are read"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431, "the request has 200 headers; 128 are read"),
        (b"GET / HTTP/1.1\r\na: " + b"x" * 40_000 + b"\r\n\r\n", 431, HEAD),
        (b"nonsense\r\n\r\n", 400, INVALID),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, INVALID),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400, INVALID),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, INVALID),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", 400, INVALID),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400, INVALID),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n", 400, INVALID),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, INVALID),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, INVALID),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_no_request_is_refused_in_json(head, status, error):
    @run
    async def test():
        async with port() as at:
            assert refused(await at.exchange(head)) == (status, error)

    test()


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\na: ", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10])
def test_a_head_without_end_is_cut_off(start):
    @run
    async def test():
        async with port() as at:
            _, writer = await at.open(start)
            await at.is_cut_off(writer, b"x" * 65_536, 1000)
            assert at.ended == {"too_large": 1}

    test()


@run
async def test_requests_sent_ahead_are_answered_in_order_but_not_without_end():
    async with port() as at:
        few = b"".join(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (n, b"x" * n) for n in range(10))
        answers = await at.exchange(few, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert [int(part.split(b"\r\n\r\n")[1][:1]) for part in answers.split(b"HTTP/1.1 ")[1:]] == [*range(10), 0]
        with pytest.raises(ConnectionError):
            await at.exchange(GET.replace(b"/", b"/slow", 1) + GET * 10_000)
        assert at.ended == {"too_large": 1}


@run
async def test_a_head_behind_a_running_request_is_bounded_too():
    async with port() as at:
        _, writer = await at.open(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: not at.listener.connections.waiting)
        await at.is_cut_off(writer, b"GET / HTTP/1.1\r\na: " + b"x" * 65_536, 1000)
        assert at.ended == {"too_large": 1}
        writer.close()


@run
async def test_an_early_answer_leaves_a_usable_connection_and_a_bounded_rest():
    async with port() as at:
        early = b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
        reader, writer = await at.open(early)
        await reader.readuntil(b"\r\n\r\n0")
        writer.write(b"x" * 100_000 + b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\n0")
        writer.close()
        reader, writer = await at.open(early.replace(b"100000", b"900000"))
        await reader.readuntil(b"\r\n\r\n0")
        await at.is_cut_off(writer, b"x" * 9000, 1000)
        writer.close()
        assert at.ended == {"too_large": 1}


@run
async def test_new_connections_take_the_place_of_those_that_wait_longest():
    async with port(ConnectionLimits(connections=8)) as at:
        idle = [await at.open() for _ in range(8)]
        busy = [await at.open(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n") for _ in range(4)]
        for reader, _ in idle[:4]:
            assert await reader.read() == b""
        trickling = [await at.open(b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\nx") for _ in range(4)]
        await asyncio.sleep(0.1)

        for _ in range(20):
            reader, writer = await at.open(GET)
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()

        at.app.go.set()
        for reader, _ in busy:  # what is worked on never makes room
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")
        assert refused(await trickling[0][0].read())[0] == 408
        for _, writer in [*idle, *busy, *trickling]:
            writer.close()


@run
async def test_who_makes_room_in_the_middle_of_sending_is_not_waited_for():
    async with port(ConnectionLimits(connections=8)) as at:
        for _ in range(50):
            await at.open(b"GET / HTTP/1.1\r\n")
        await until(lambda: at.ended.get("made_room") == 42)
        await until(lambda: [each.phase for each in at.listener.connections.open] == [Phase.HEAD] * 8)


@run
async def test_when_all_are_at_work_the_next_is_told_to_come_back():
    async with port() as at:
        busy = [await at.open(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n") for _ in range(8)]
        connections = at.listener.connections
        await until(lambda: not connections.waiting and len(connections.open) == 8)

        answer = await at.exchange(GET)

        assert refused(answer) == (503, "all connections are in use: come back later")
        assert b"retry-after: 1\r\n" in answer
        at.app.go.set()
        for reader, writer in busy:
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")
            writer.close()


@run
async def test_an_upgrade_is_answered_as_a_plain_request():
    async with port() as at:
        asked = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        assert parse(await at.exchange(asked, b"\x81\x05hello" * 1000)) == (200, b"0")


@run
async def test_nothing_is_left_of_connections_that_ended():
    async with port() as at:
        for data in (b"", b"GET", GET, b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\nx", b"nonsense\r\n\r\n"):
            for half_closed in (True, False):
                reader, writer = await at.open(data)
                if half_closed:
                    writer.write_eof()
                    await reader.read()
                writer.close()
        await until(lambda: not at.listener.connections.open)
        assert (at.listener.connections.open, list(at.listener.connections.waiting)) == (set(), [])
        assert set(at.ended) <= {Ended.INVALID.value}


@run
async def test_a_client_that_waits_for_leave_to_send_its_body_gets_it():
    async with port() as at:
        reader, writer = await at.open(
            b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await reader.readexactly(1) == b"3"
