"""The command `windlass-operator`."""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Callable

import structlog
import uvloop

from . import command_line
from .control.auth import FileTokens
from .control.endpoint import create_app
from .control.hub import Hub
from .directory_driver.driver import DirectoryDriver, Folders
from .engine.interface import Observation, Outcome
from .logs import configure_logs
from .metrics import Metrics
from .settings import DirectorySettings, KubernetesSettings
from .web import HttpServer, StartError, create_health_app, stop_on_signals, tls_context

_TAKEOVER_SECONDS = 10.0
"""How long the ports of one that just died may be in use still."""


def main() -> None:
    """Runs the operator; exit code 0 after SIGTERM or SIGINT, 1 when it can't start or go on, 2 for wrong settings."""
    settings = command_line.parse(sys.argv[1:])
    configure_logs(settings.log_format, settings.log_level)
    # Late: the engine is only needed by who runs it.
    from .engine.reconcile import reconcile

    # What is there by now stays: the collector needn't go through it again and again.
    gc.freeze()
    try:
        # Not asyncio's own loop: that one sets aside a quarter of a MiB for each connection with TLS.
        if isinstance(settings, KubernetesSettings):
            from .kubernetes_driver.running import run_kubernetes  # kopf and cryptography cost memory

            uvloop.run(run_kubernetes(settings, reconcile))
        else:
            uvloop.run(run_directory(settings, reconcile))
    except StartError as error:
        sys.stderr.write(f"windlass-operator: {error}\n")
        sys.exit(1)


async def run_directory(settings: DirectorySettings, reconcile: Callable[[Observation], Outcome]) -> None:
    """The directory driver with its endpoints, until SIGTERM or SIGINT. Raises `StartError`."""
    log = structlog.get_logger("windlass.operator")
    stop = stop_on_signals()
    folders = _folders(settings)
    hub = Hub()
    metrics = Metrics("directory")
    driver = DirectoryDriver(
        settings.directory,
        folders,
        hub,
        reconcile,
        metrics,
        servers=settings.server,
        poll_seconds=settings.poll_seconds,
    )
    tls = tls_context(settings.control_tls_cert, settings.control_tls_key)
    servers = [
        HttpServer("control endpoint", create_app(hub, FileTokens(folders.tokens)), settings.host, settings.port, tls),
        HttpServer(
            "metrics endpoint",
            create_health_app(metrics.registry, driver.turning, driver.acting),
            settings.metrics_host,
            settings.metrics_port,
        ),
    ]

    async def open_rest() -> None:
        for server in servers:
            if not server.is_open:
                await server.open(patience=_TAKEOVER_SECONDS)
                log.info("operator.listening", endpoint=server.name, url=server.url)

    try:
        first = driver.lock.try_acquire()
        for server in servers:
            try:
                await server.open()
            except StartError as error:
                if first or not _in_use(error):
                    raise
                # Most likely by the one that acts, on the same machine.
                log.info("operator.port_in_use", endpoint=server.name, port=server.port, effect="opened at takeover")
            else:
                log.info("operator.listening", endpoint=server.name, url=server.url)
        await driver.run(stop, open_rest)
        log.info("operator.stopped")
    except OSError as error:
        raise StartError(f"{error.filename or settings.state_folder}: {error.strerror or error}") from error
    finally:
        for server in servers:
            await server.close()


def _folders(settings: DirectorySettings) -> Folders:
    directory, state = settings.directory, settings.state_folder
    if not directory.is_dir():
        raise StartError(f"there is no folder {directory}; make it, or name the one that holds the ModelVersion files")
    folders = Folders(state, settings.tokens_folder)
    try:
        folders.create()
    except OSError as error:
        raise StartError(
            f"the state folder {state} can't be made: {error.strerror}; make it writable or name another by --state"
        ) from error
    return folders


def _in_use(error: StartError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE


if __name__ == "__main__":
    main()
