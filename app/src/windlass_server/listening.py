"""Sockets and uvicorn: one application on one port, stopped without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from windlass_server.stopping import settle

BACKLOG = 2048


class StartError(Exception):
    """The replica can't start: what a person has to correct."""


class _Server(uvicorn.Server):
    """Signals are main's: they mean more here than the end of one port."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        """It accepts."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says when it is done."""
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which resets who is in the queue or just sending; so they come first."""
        await settle(sockets or [], self._unheard)
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

    async def open(
        self,
        app: ASGIApp,
        *,
        tls: tuple[Path | None, Path | None] = (None, None),
        max_connections: int | None = None,
        keep_alive: float = 5.0,
    ) -> None:
        """Serves `app`. `tls`: certificate and key. Raises `StartError`."""
        certificate, key = tls
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            limit_concurrency=max_connections,
            timeout_keep_alive=max(1, round(keep_alive)),
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        try:
            config.load()
        except OSError as error:
            raise StartError(f"the TLS files {certificate} and {key} can't be used: {error}") from error
        if certificate is not None:
            self.url = f"https://{self._address}"
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
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
