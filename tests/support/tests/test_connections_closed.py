"""Loops that end when their connections have."""

from __future__ import annotations

import asyncio
import socket

import pytest

from windlass_testing import connections_closed


def test_a_loop_goes_on_until_what_was_left_open_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        async def main() -> socket.socket:
            _, writer = await asyncio.open_connection(*server.getsockname())
            asyncio.get_running_loop().call_later(0.1, writer.close)
            found: socket.socket = writer.get_extra_info("socket")
            return found

        assert connections_closed.run(main()).fileno() == -1


def test_one_that_is_never_closed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_closed, "SECONDS", 0.1)
    one, other = socket.socketpair()
    with one, other:

        async def main() -> None:
            asyncio.get_running_loop().add_reader(one, print)

        with pytest.raises(TimeoutError):
            connections_closed.run(main())
