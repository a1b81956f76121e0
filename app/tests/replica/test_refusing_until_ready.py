"""Until its gate opens a port answers its own machine and refuses everyone else."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
import uvloop

from windlass_contract.report import VersionState
from windlass_server.health import Facts, ModelFacts, PlanSource, ReplicaHealth, VersionFacts
from windlass_server.listening import Listener


async def app(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]


async def answers(address: str, port: int) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://{address}:{port}/")).text == "ok"
    except httpx.ConnectError:
        return False


async def opened(address: str, port: int) -> None:
    async with asyncio.timeout(10):
        while not await answers(address, port):  # noqa: ASYNC110 - the other side sets no event
            await asyncio.sleep(0.01)


def run(coroutine: object) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)  # type: ignore[arg-type]


def port_of(listener: Listener) -> int:
    return int(listener.url.rsplit(":", 1)[1])


def test_who_comes_from_elsewhere_is_refused_until_the_gate_opens() -> None:
    async def scenario() -> None:
        own, elsewhere = "127.0.0.1", "127.0.0.2"  # the second stands for the world outside
        gate, listener = asyncio.Event(), Listener("0.0.0.0", 0, "tests", "--port")
        await listener.open(app, gate=gate)  # type: ignore[arg-type]
        port = port_of(listener)
        assert await answers(own, port)
        assert not await answers(elsewhere, port)
        gate.set()
        await opened(elsewhere, port)
        assert await answers(own, port)
        await listener.close(5)
        assert not await answers(own, port)

    run(scenario())


def test_a_connection_from_before_the_gate_opened_stays() -> None:
    async def scenario() -> None:
        gate, listener = asyncio.Event(), Listener("0.0.0.0", 0, "tests", "--port")
        await listener.open(app, gate=gate)  # type: ignore[arg-type]
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as client:
            url = f"http://127.0.0.1:{port_of(listener)}/"
            assert (await client.get(url)).text == "ok"
            gate.set()
            await opened("127.0.0.2", port_of(listener))
            assert (await client.get(url)).text == "ok"
        await listener.close(5)

    run(scenario())


def test_a_port_that_never_opened_closes_at_once() -> None:
    async def scenario() -> None:
        listener = Listener("0.0.0.0", 0, "tests", "--port")
        await listener.open(app, gate=asyncio.Event())  # type: ignore[arg-type]
        port = port_of(listener)
        began = asyncio.get_running_loop().time()
        await listener.close(5)
        assert asyncio.get_running_loop().time() - began < 0.9
        assert not await answers("127.0.0.1", port)
        with socket.create_server(("127.0.0.1", port)):
            pass

    run(scenario())


@pytest.mark.parametrize("state", [VersionState.LOADING, VersionState.PREPARED])
def test_the_first_ready_opens_the_gate_and_nothing_closes_it(state: VersionState) -> None:
    prepared = state is VersionState.PREPARED
    draining = False

    def gather(was_ready: bool) -> Facts:
        model = ModelFacts((VersionFacts(1, state, gets_traffic=True),), answers=prepared)
        return Facts(PlanSource.OPERATOR, {"m": model}, was_ready=was_ready, draining=draining)

    health = ReplicaHealth(gather, lambda: pytest.fail("nobody asked for the time"))
    assert health.ready()[0] is prepared
    draining = True
    assert health.ready()[0] is False
    assert health.ready_once.is_set() is prepared
