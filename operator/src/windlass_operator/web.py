"""The operator's two HTTP servers: for replicas, and for metrics and its own health."""

from __future__ import annotations

import asyncio
import errno
import signal
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

SHUTDOWN_SECONDS = 2.0
"""For answers under way; polls end at once."""


class StartError(Exception):
    """The operator can't start; the message says why and what to do."""


@dataclass
class HttpServer:
    """One application on one address."""

    name: str
    app: web.Application
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    url: str = ""
    """Where it is reached, once it is open."""
    _runner: web.AppRunner | None = field(default=None, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether it accepts connections."""
        return bool(self.url)

    async def open(self, patience: float = 0.0) -> None:
        """Listens; tries for `patience` seconds while somebody else has the port. Raises `StartError`."""
        if self._runner is None:
            self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
            await self._runner.setup()
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            site = web.TCPSite(self._runner, self.host, self.port, ssl_context=self.tls)
            try:
                await site.start()
                break
            except OSError as error:
                await site.stop()
                if error.errno == errno.EADDRINUSE and asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(0.05)
                    continue
                raise StartError(
                    f"the {self.name} can't listen on {self.host}:{self.port}: {error.strerror}; choose another address"
                ) from error
        address = self._runner.addresses[0]
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"{'https' if self.tls else 'http'}://{host}:{address[1]}"

    async def close(self) -> None:
        """Ends all connections."""
        self.url = ""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """The TLS settings of a server, if it has any. Raises `StartError`."""
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"certificate {certificate} with key {key} can't be used: {error}") from error
    return context


def create_health_app(
    registry: CollectorRegistry, live: Callable[[], bool], ready: Callable[[], bool]
) -> web.Application:
    """`/metrics`, `/livez` (it turns) and `/readyz` (it acts; one that stands by isn't ready)."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def probe(name: str, check: Callable[[], bool]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(_: web.Request) -> web.StreamResponse:
            good = check()
            return web.Response(text=f"{name if good else 'not ' + name}\n", status=200 if good else 503)

        return answer

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/livez", probe("live", live))
    app.router.add_get("/readyz", probe("ready", ready))
    return app


def stop_on_signals() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
