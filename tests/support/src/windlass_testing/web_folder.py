"""A folder on a real web server, with TLS by an authority of its own, and with the faults that a test asks for."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from windlass_testing.connections_closed import WatchedLoop


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority's certificate, and a server's chain and key by it."""

    authority: Path
    chain: Path
    key: Path


def certificates(folder: Path, *hosts: str) -> Certificates:
    """Of a server that is `hosts` (names or `IP:…`), by an authority of its own."""
    names = ",".join(host if ":" in host else f"DNS:{host}" for host in hosts)
    made = Certificates(folder / "authority.pem", folder / "server.pem", folder / "server.key")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    signer = ["-CA", str(made.authority), "-CAkey", str(folder / "authority.key")]
    for subject, files, options in (
        ("authority", (folder / "authority.key", made.authority), ["basicConstraints=critical,CA:TRUE"]),
        ("server", (made.key, made.chain), [f"subjectAltName={names}", "basicConstraints=critical,CA:FALSE"]),
    ):
        extensions = [part for option in options for part in ("-addext", option)]
        command = ["openssl", "req", "-x509", *new_key, "-subj", f"/CN={subject}", *extensions]
        command += [*(signer if subject == "server" else []), "-keyout", str(files[0]), "-out", str(files[1])]
        subprocess.run(command, check=True, capture_output=True)
    return made


@dataclass
class WebFolder:
    """`root` at `url`, and what was asked for."""

    root: Path
    ca_file: Path
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range of each request."""
    user: tuple[str, str] | None = None
    """Name and password that it asks for."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Path to where it leads."""
    cut_after: int | None = None
    """Bytes after which a file's connection is ended, once."""
    stall: bool = False
    """Whether a file's second half never comes."""
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one request."""
        self.asked.append((request.path, request.headers.get("Range", "")))
        if request.path in self.redirects:
            raise web.HTTPFound(self.redirects[request.path])
        if self.user is not None:
            expected = base64.b64encode(":".join(self.user).encode()).decode()
            if request.headers.get("Authorization") != f"Basic {expected}":
                raise web.HTTPUnauthorized
        path = self.root / request.path.lstrip("/")
        if not path.is_file():
            raise web.HTTPNotFound
        is_large = path.name != "manifest.json"
        if is_large and (self.stall or self.cut_after is not None):
            data = path.read_bytes()
            share = len(data) // 2 if self.cut_after is None else self.cut_after
            response = web.StreamResponse(headers={"Content-Length": str(len(data))})
            await response.prepare(request)
            await response.write(data[:share])
            if self.stall:
                await self.ending.wait()
            self.cut_after = None
            if request.transport is not None:
                request.transport.close()
            return response
        return web.FileResponse(path)


@contextmanager
def web_folder(root: Path, tls_folder: Path, *, tls: bool = True) -> Iterator[WebFolder]:
    """Serves a folder at `https://localhost:…` until the end, on a thread of its own."""
    tls_files = certificates(tls_folder, "localhost", "IP:127.0.0.1")
    folder = WebFolder(root, tls_files.authority)
    watched = WatchedLoop()
    loop = watched.loop
    thread = threading.Thread(target=loop.run_forever, name="web")
    thread.start()

    def call(work: Callable[[], Awaitable[None]]) -> None:
        asyncio.run_coroutine_threadsafe(_await(work), loop).result(30)

    runner: web.AppRunner | None = None

    async def begin() -> None:
        nonlocal runner
        application = web.Application()
        application.router.add_get("/{path:.*}", folder.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        context = None
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(tls_files.chain, tls_files.key)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        folder.url = f"{'https' if tls else 'http'}://localhost:{port}"

    async def end() -> None:
        folder.ending.set()
        if runner is not None:
            await runner.cleanup()
        await watched.connections_closed()

    try:
        call(begin)
        yield folder
    finally:
        call(end)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _await(work: Callable[[], Awaitable[None]]) -> None:
    await work()
