"""Closing a port: who is through gets an answer, who comes later finds nobody, and nobody is waited for without end."""

from __future__ import annotations

import asyncio
import functools
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from windlass_server.listening import Listener
from windlass_server.stopping import LINGER_SECONDS, take_no_more

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def in_a_loop(test: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def test_who_is_in_the_queue_stays_there_and_who_comes_later_finds_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as early, socket.socket() as late:
            take_no_more(listener)
            early.sendall(b"hello")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(5) == b"hello"
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.connect(address)


_AS_NOBODY = """
import os, socket
from windlass_server.stopping import take_no_more
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65532, 65532, 65532)
    os.setresuid(65532, 65532, 65532)
with socket.create_server(("127.0.0.1", 0)) as listener:
    with socket.socket() as early:
        early.connect(listener.getsockname())
        take_no_more(listener)
        early.sendall(b"hello")
        accepted, _ = listener.accept()
        with accepted:
            print(accepted.recv(5).decode())
"""


def test_an_ordinary_user_closes_a_port_too_and_keeps_who_is_in_the_queue() -> None:
    """Some kernels keep socket filters for administrators of the network; containers have none."""
    done = subprocess.run([sys.executable, "-c", _AS_NOBODY], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


@pytest.fixture
def listener() -> Listener:
    return Listener("127.0.0.1", 0, "tests", "--port")


@in_a_loop
async def test_a_request_on_a_connection_from_before_the_close_is_answered(listener: Listener) -> None:
    await listener.open(app)
    host, port = listener.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    closing = asyncio.create_task(listener.close(5))
    await asyncio.sleep(0.2)
    writer.write(REQUEST)
    assert (await reader.read()).endswith(b"ok")
    writer.close()
    await closing
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


@in_a_loop
async def test_connections_that_wait_in_the_queue_are_answered(listener: Listener) -> None:
    await listener.open(app)
    host, port = listener.url.removeprefix("http://").split(":")
    waiting = [socket.create_connection((host, int(port))) for _ in range(50)]  # the loop hasn't turned yet
    for each in waiting:
        each.sendall(REQUEST)
    await listener.close(5)
    for each in waiting:
        with each:
            each.settimeout(5)
            said = b""
            while data := await asyncio.to_thread(each.recv, 4096):
                said += data
            assert said.endswith(b"ok")


@in_a_loop
async def test_a_connection_that_never_says_anything_is_not_waited_for_without_end(listener: Listener) -> None:
    await listener.open(app)
    host, port = listener.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    start = time.monotonic()
    await asyncio.wait_for(listener.close(30), 20)
    assert time.monotonic() - start >= LINGER_SECONDS
    assert await reader.read() == b""
    writer.close()
