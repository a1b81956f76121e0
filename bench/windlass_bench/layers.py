"""What each layer of a W1 request takes of the event loop's thread: `python -m windlass_bench.layers MODELS` says so in
JSON.

A whole replica in this process, with its worker, log and metrics, whose connections lead nowhere: what is written is
only looked at. From outside in one part after the other is what it is in a replica, and what lies below it a constant;
the difference is what it takes. Processor time of the thread; of many chunks of requests the least.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import uvicorn
import uvloop
from uvicorn.server import ServerState

from windlass_server import command_line, main
from windlass_server.api.exchange import Answer
from windlass_server.api.serving import Call
from windlass_server.api.tfs_v1 import TfsV1
from windlass_server.connections import BoundedProtocol, Connections
from windlass_server.hosting.resident import Resident
from windlass_server.listening import Listener
from windlass_server.logs import configure_logs

from .workloads import message

CONNECTIONS = 64
_CHUNKS, _REQUESTS = 30, 1000
_READY_SECONDS = 60.0
_OUTPUTS = {"y": np.linspace(0, 1, 8, dtype=np.float32)[None]}
LAYERS = {
    "HTTP: parsing, a task, the answer's bytes": "http",
    "its id, route, count and headers": "answer",
    "body, JSON in and out, checks, admission": "json",
    "the version's counters, breaker, second answer": "resident",
    "the worker: places, deadline, channel": "no log",
    "the prediction log, with what its threads hold up": "",
}
"""Outermost first; each with what is replaced below it."""


class Nowhere:
    """A transport. Calls back when an answer was written."""

    def __init__(self) -> None:
        self.said = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As a client of this machine."""
        return {"sockname": ("127.0.0.1", 8000), "peername": ("127.0.0.1", 1)}.get(name, default)

    def write(self, data: bytes) -> None:
        """Kept until the next."""
        self.said = data

    def get_write_buffer_size(self) -> int:
        """Everything is taken at once."""
        return 0

    def is_closing(self) -> bool:
        """Never."""
        return False

    def resume_reading(self) -> None:
        """It was never paused."""


class Client(BoundedProtocol):
    """A connection that sends its request again when it has the answer, until enough are sent."""

    load: Load
    bare: Any = None

    def on_response_complete(self) -> None:
        """The next."""
        super().on_response_complete()
        self.load.answered(self)


class Load:
    """So many connections in a closed loop."""

    def __init__(self, app: Any, request: bytes) -> None:
        self._request = request
        self._left = self._open = 0
        self._done = asyncio.Event()
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, server_header=False, ws="none")
        config.load()
        connections, state = Connections(), ServerState()
        self.clients = [
            Client(connections, config=config, server_state=state, app_state={}) for _ in range(CONNECTIONS)
        ]
        for client in self.clients:
            client.load = self
            client.connection_made(Nowhere())

    def answered(self, client: Client) -> None:
        """Raises `AssertionError` when it isn't 200."""
        said = client.transport.said  # type: ignore[attr-defined]
        assert said.startswith(b"HTTP/1.1 200 "), said
        self._open -= 1
        if self._left:
            self._send(client)
        elif not self._open:
            self._done.set()

    def _send(self, client: Client) -> None:
        self._left -= 1
        self._open += 1
        asyncio.get_running_loop().call_soon(client.data_received, self._request)

    async def run(self, requests: int) -> float:
        """Microseconds of this thread per request."""
        self._left = requests
        self._done.clear()
        begun = time.thread_time()
        for client in self.clients[: min(CONNECTIONS, requests)]:
            self._send(client)
        await self._done.wait()
        return 1e6 * (time.thread_time() - begun) / requests


def replaced(what: str, load: Load, body: bytes) -> AbstractContextManager[Any]:
    """Puts constants in the place of what lies below a layer."""

    async def constant_app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - ASGI's signature
        await receive()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def answer(_self: Any, _request: Any) -> Answer:
        return Answer(200, body)

    async def outputs(_self: Any, *_: Any, **_named: Any) -> dict[str, Any]:
        return _OUTPUTS

    no_log = patch.object(Call, "_record", lambda *_: None)
    stack = ExitStack()
    if what == "http":
        for client in load.clients:
            stack.enter_context(patch.object(client, "app", constant_app))
    elif what == "answer":
        stack.enter_context(patch.object(TfsV1, "__call__", answer))
    elif what == "json":
        stack.enter_context(patch.object(Call, "infer", outputs))
    elif what == "resident":
        stack.enter_context(patch.object(Resident, "infer", outputs))
        stack.enter_context(no_log)
    elif what == "no log":
        stack.enter_context(no_log)
    return stack


async def measure(models: Path, state: Path) -> dict[str, float]:
    """Microseconds by layer."""
    arguments = ["--models", str(models / "litert"), "--port", "0", "--metrics-port", "0", "--state-dir", str(state)]
    with _applications() as applications:
        serving = asyncio.create_task(main.serve(command_line.parse([*arguments, "--drain-delay", "0"])))
        deadline = time.monotonic() + _READY_SECONDS
        while not applications or not await _answers(applications[0]):
            assert not serving.done(), serving
            assert time.monotonic() < deadline, "the replica isn't ready"
            await asyncio.sleep(0.05)
    sent = message("rows", "/v1/models/tiny:predict", np.load(models / "W1.npy"), b"")
    head = [f"POST {sent.path} HTTP/1.1", "host: 127.0.0.1:8000", f"content-length: {len(sent.body)}"]
    head += [f"{name}: {value}" for name, value in sent.headers.items()]
    load = Load(applications[0], "\r\n".join([*head, "", ""]).encode() + sent.body)
    await load.run(_REQUESTS)
    body = load.clients[0].transport.said.partition(b"\r\n\r\n")[2]  # type: ignore[attr-defined]
    found: dict[str, float] = {}
    before = 0.0
    for layer, what in LAYERS.items():
        with replaced(what, load, body):
            least = min([await load.run(_REQUESTS) for _ in range(_CHUNKS)])
        found[layer], before = least - before, least
    return found


@contextlib.contextmanager
def _applications() -> Iterator[list[Any]]:
    """What ports are opened with."""
    found: list[Any] = []
    open_port = Listener.open

    async def remember(self: Listener, app: Any, **options: Any) -> None:
        found.append(app)
        await open_port(self, app, **options)

    with patch.object(Listener, "open", remember):
        yield found


async def _answers(app: Any) -> bool:
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(said: Any) -> None:
        statuses.extend([said["status"]] if "status" in said else [])

    await app({"type": "http", "method": "GET", "path": "/readyz", "headers": [], "query_string": b""}, receive, send)
    return statuses == [200]


if __name__ == "__main__":
    configure_logs("json", "warning")
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(Path(sys.argv[1]), Path(folder)))), flush=True)
        os._exit(0)  # the replica goes with it, and its workers too
