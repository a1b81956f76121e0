"""Sockets and uvicorn: one application on one port, stopped without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from windlass_server.connections import SWEEP_SECONDS, Connections
from windlass_server.secret_files import follow
from windlass_server.stopping import settle
from windlass_server.tls import Tls, TlsError, TlsFiles

BACKLOG = 2048
TLS_SECONDS = 10.0
"""For a handshake, and for the end of a TLS connection."""


class StartError(Exception):
    """The replica can't start: what a person has to correct."""


class _Server(uvicorn.Server):
    """Signals are main's: they mean more here than the end of one port."""

    def __init__(self, config: uvicorn.Config, tls: Tls | None) -> None:
        super().__init__(config)
        self._tls = tls
        self._listening: list[socket.socket] = []
        """What takes connections now."""
        self.up = asyncio.Event()
        """It accepts."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with deadlines for TLS; says when it is done."""
        await self.lifespan.startup()
        await self._listen(sockets or [])
        self.started = True
        self.up.set()

    async def move_to(self, sockets: list[socket.socket]) -> None:
        """Takes connections on these sockets from now on, in place of those before. Connections that stand stay."""
        for each in self._listening:
            # At once: the port can't be listened on twice.
            each.shutdown(socket.SHUT_RD)
        for server in self.servers:
            server.close()
        await self._listen(sockets)

    async def _listen(self, sockets: list[socket.socket]) -> None:
        context = self._tls.context if self._tls is not None else None
        seconds = TLS_SECONDS if self._tls is not None else None
        self.servers = [
            await asyncio.get_running_loop().create_server(
                self._new_protocol,
                sock=each,
                backlog=self.config.backlog,
                ssl=context,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
            for each in sockets
        ]
        self._listening = sockets

    def _new_protocol(self) -> asyncio.Protocol:
        options = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        return self.config.http_protocol_class(**options)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which resets who is in the queue or just sending; so they come first."""
        await settle(self._listening, self._unheard)
        await super().shutdown(sockets)

    def _unheard(self) -> int:
        return sum(1 for connection in self.server_state.connections if getattr(connection, "cycle", None) is None)


class Listener:
    """One port. Bound when it is made, so that a port in use is known before anything else is done."""

    def __init__(self, host: str, port: int, purpose: str, flag: str) -> None:
        """`flag`: what names the port, for the message. Raises `StartError`."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
        except OSError as error:
            words = {
                errno.EADDRINUSE: f"is in use by another process: end that one, or choose another by {flag}",
                errno.EACCES: f"needs more rights than this user has: choose one above 1023 by {flag}",
                errno.EADDRNOTAVAIL: "isn't on an address of this machine: correct the address",
            }
            why = words.get(error.errno or 0, f"can't be opened: {error.strerror or error}")
            raise StartError(f"port {port} on {host} for {purpose} {why}") from error
        shown = f"[{host}]" if ":" in host else host
        self._address = f"{shown}:{self._socket.getsockname()[1]}"
        self.url = f"http://{self._address}"
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._chores: list[asyncio.Task[None]] = []
        self.connections = Connections()
        """Of this port."""

    async def open(
        self,
        app: ASGIApp,
        *,
        tls: TlsFiles | None = None,
        connections: Connections | None = None,
        gate: asyncio.Event | None = None,
    ) -> None:
        """Serves `app`. `tls`: read anew when the files change. `gate`: until it is set only this machine (or
        container) is answered, on its loopback address; who comes from elsewhere is refused. Raises `StartError`.
        """
        self.connections = connections or self.connections
        try:
            secured = await asyncio.to_thread(Tls, tls) if tls is not None else None
        except TlsError as error:
            raise StartError(str(error)) from error
        config = uvicorn.Config(
            app,
            http=self.connections.protocol,  # type: ignore[arg-type]  # a class or what makes one
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=max(1, round(self.connections.limits.keep_alive)),
        )
        config.load()
        if secured is not None:
            self.url = f"https://{self._address}"
            self._chores.append(asyncio.create_task(follow(secured.watched, secured.reload)))
        self._chores.append(asyncio.create_task(self._sweep()))
        first = self._socket
        if gate is not None:
            first = _loopback_beside(self._socket)
            self._chores.append(asyncio.create_task(self._open_to_all(gate)))
        self._server = _Server(config, secured)
        self._task = asyncio.create_task(self._server.serve(sockets=[first]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({self._task, up}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._task.done():
            await self._task

    async def close(self, seconds: float) -> None:
        """Accepts nothing more, and lets what is there be finished for at most `seconds`."""
        if self._server is None or self._task is None:
            self._socket.close()
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(seconds))
        self._server.should_exit = True
        await self._task
        self._socket.close()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)

    async def _open_to_all(self, gate: asyncio.Event) -> None:
        await gate.wait()
        if self._server is not None and not self._server.should_exit:
            await self._server.move_to([self._socket])

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.connections.sweep(time.monotonic())


def _loopback_beside(bound: socket.socket) -> socket.socket:
    """A socket on the same port of the loopback address. The other one must not listen as long as this one does."""
    loopback = "::1" if bound.family == socket.AF_INET6 else "127.0.0.1"
    beside = socket.socket(bound.family, bound.type, bound.proto)
    beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    beside.bind((loopback, bound.getsockname()[1]))
    return beside
