"""What leaves for a client, and in how many pieces, by what an application sends."""

from __future__ import annotations

import asyncio
import logging

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from windlass_server.request_cycle import RequestCycle

TYPE = (b"content-type", b"text/plain")


class Transport:
    """Keeps what is written."""

    def __init__(self):
        self.pieces = []
        self.closed = False

    def write(self, data):
        self.pieces.append(bytes(data))

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed


def cycle(method="GET", *, keep_alive=True, expect=False):
    transport = Transport()
    made = RequestCycle(
        {"type": "http", "method": method}, transport, FlowControl(transport), logging.getLogger(), logging.getLogger(),
        access_log=False, default_headers=[], message_event=asyncio.Event(), expect_100_continue=expect,
        keep_alive=keep_alive, on_response=lambda: transport.pieces.append("complete"),
    )  # fmt: skip
    return made, transport


def start(*headers, status=200):
    return {"type": "http.response.start", "status": status, "headers": [TYPE, *headers]}


def body(data=b"", *, more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(size):
    return (b"content-length", b"%d" % size)


OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
BIG = b"x" * 70_000


@pytest.mark.parametrize(
    ("method", "messages", "pieces"),
    [
        ("GET", [start(length(2)), body(b"ok")], [OK + b"content-length: 2\r\n\r\nok"]),
        ("GET", [start(length(70_000)), body(BIG)], [OK + b"content-length: 70000\r\n\r\n", BIG]),
        ("HEAD", [start(length(2)), body(b"ok")], [OK + b"content-length: 2\r\n\r\n"]),
        (
            "GET",
            [start(), body(b"ab", more=True), body(b"c", more=True), body()],
            [OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n", b"1\r\nc\r\n", b"0\r\n\r\n"],
        ),
        (
            "GET",
            [start(length(2), (b"connection", b"close")), body(b"ok")],
            [OK + b"content-length: 2\r\nconnection: close\r\n\r\nok"],
        ),
        ("GET", [start(status=204), body()], [b"HTTP/1.1 204 No Content\r\ncontent-type: text/plain\r\n\r\n"]),
    ],
)
def test_an_answer_leaves_in_as_few_pieces_as_it_can(method, messages, pieces):
    async def run():
        made, transport = cycle(method)
        for message in messages:
            await made.send(message)
        assert transport.pieces == [*pieces, "complete"]
        assert made.response_complete
        assert transport.closed == any(b"connection: close" in piece for piece in pieces)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([start((b"x-a", b"1\r\nx-b: 2")), body()], "characters that no header may have"),
        ([start((b"x a", b"1")), body()], "characters that no header may have"),
        ([start(length(1)), body(b"ab")], "longer than its Content-Length"),
        ([start(length(3)), body(b"ab")], "shorter than its Content-Length"),
        ([body(b"ab")], "an answer that is not begun"),
        ([start(length(0)), start(length(0))], "an answer that is begun"),
        ([start(length(0)), body(), body()], "an answer that is complete"),
    ],
)
def test_an_application_that_breaks_the_rules_is_told(messages, error):
    async def run():
        made, transport = cycle()
        with pytest.raises(RuntimeError, match=error):  # noqa: PT012 - which of them, the table says
            for message in messages:
                await made.send(message)
        assert not any(b"x-b" in piece for piece in transport.pieces if piece != "complete")

    asyncio.run(run())


def test_who_asks_first_whether_to_send_its_body_is_told_to_go_on():
    async def run():
        made, transport = cycle("POST", expect=True)
        made.body, made.more_body = bytearray(b"ab"), False
        made.message_event.set()
        assert await made.receive() == {"type": "http.request", "body": b"ab", "more_body": False}
        assert transport.pieces == [b"HTTP/1.1 100 Continue\r\n\r\n"]

    asyncio.run(run())


def test_nothing_is_sent_to_who_has_left():
    async def run():
        made, transport = cycle()
        made.disconnected = True
        await made.send(start(length(2)))
        await made.send(body(b"ok"))
        assert transport.pieces == []
        assert await made.receive() == {"type": "http.disconnect"}

    asyncio.run(run())
