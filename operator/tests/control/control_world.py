"""The control endpoint over real HTTP, as its tests use it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, ClientSession
from aiohttp.test_utils import TestServer

from windlass_contract.control import PlanAnswer
from windlass_contract.plan import ModelPlan, PlannedVersion, ServingPlan
from windlass_operator.control.auth import FileTokens, Identity
from windlass_operator.control.endpoint import create_app
from windlass_operator.control.hub import Hub
from windlass_testing import connections_closed

SERVER = "cats-dogs"
DIGEST = "sha256:" + "a" * 64
AUTHORIZED = {"Authorization": "Bearer secret-of-cats"}
PLAN = f"/control/v1/servers/{SERVER}/plan"
REPORTS = f"/control/v1/servers/{SERVER}/reports"


def plan(epoch: int, server: str = SERVER) -> ServingPlan:
    version = PlannedVersion(version=1, digest=DIGEST, weight=1000)
    return ServingPlan.build(server, epoch, {"cats-dogs": ModelPlan(committed=1, versions=[version])})


def report(sequence: int = 0, instance: str = "00000000-0000-0001", **fields: Any) -> dict[str, Any]:
    return {"server": SERVER, "replica": "r1", "instance": instance, "sequence": sequence, **fields}


class Clock:
    """Real time, that a test can put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class EachOfAPod:
    """Tokens as Pods have them: each is one replica's own, and names it."""

    async def identify(self, token: str, server: str) -> Identity | None:  # noqa: ARG002
        return Identity(SERVER, replica=token)


class World:
    def __init__(self, hub: Hub, clock: Clock, http: ClientSession, base: str, tokens: Path) -> None:
        self.hub, self.clock, self.http, self.base, self.tokens = hub, clock, http, base, tokens

    async def get(self, path: str, **options: Any) -> tuple[int, Any, ClientResponse]:
        return await self._request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> tuple[int, Any, ClientResponse]:
        return await self._request("POST", path, **options)

    async def _request(self, method: str, path: str, **options: Any) -> tuple[int, Any, ClientResponse]:
        options.setdefault("headers", AUTHORIZED)
        async with self.http.request(method, self.base + path, **options) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if answer.content_type == "application/json" else body, answer

    async def poll(self, held: ServingPlan | None, hold: str = "") -> PlanAnswer:
        query = f"?hold={hold}&instance=i" + (f"&epoch={held.epoch}&digest={held.digest}" if held else "")
        status, body, _ = await self.get(PLAN + query)
        assert status == 200, body
        return PlanAnswer.parse(body, "answer")


@asynccontextmanager
async def world(folder: Path, authenticator: Any = None) -> AsyncIterator[World]:
    tokens = folder / "tokens"
    tokens.mkdir(exist_ok=True)
    (tokens / SERVER).write_text("secret-of-cats\n")
    (tokens / "horses").write_text("secret-of-horses\n")
    clock = Clock()
    hub = Hub(clock=clock)
    server = TestServer(create_app(hub, authenticator or FileTokens(tokens)))
    await server.start_server()
    try:
        async with ClientSession() as http:
            yield World(hub, clock, http, str(server.make_url("")).rstrip("/"), tokens)
    finally:
        await server.close()


def act(hub: Hub, shown: ServingPlan | None, renewed: tuple[str, ...] = ()) -> None:
    hub.act()
    hub.open(SERVER)
    hub.confirm(SERVER)
    hub.publish(SERVER, shown, renewed)


def run(folder: Path, scenario: Callable[[World], Awaitable[None]], authenticator: Any = None) -> None:
    async def body() -> None:
        async with world(folder, authenticator) as each:
            await scenario(each)

    connections_closed.run(body())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the condition is a task's, there is nothing to be told by
            await asyncio.sleep(0.005)
