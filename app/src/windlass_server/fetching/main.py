"""The command `windlass-fetcher`: brings the files of planned versions, until it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid

import structlog
import uvloop

from windlass_server.command_line import parse_settings
from windlass_server.fetching.download import Bounds
from windlass_server.fetching.fetcher import Fetcher
from windlass_server.fetching.https_source import HttpsSource
from windlass_server.fetching.settings import FetcherSettings
from windlass_server.fetching.sources import Source
from windlass_server.following.follower import Follower
from windlass_server.following.subscription import Subscription
from windlass_server.logs import configure_logs

log = structlog.get_logger(__name__)

_PROGRAM = "windlass-fetcher"
_UMASK = 0o022
"""What it writes is read by replicas, which may run as another user."""


def main() -> None:
    """Runs a fetcher; exit code 0 after SIGTERM or SIGINT, 1 when it can't write, 2 for wrong settings."""
    settings = parse_settings(
        FetcherSettings,
        sys.argv[1:],
        _PROGRAM,
        "Brings the files of the versions that the operator's plan names into the folder of models: checked against "
        "their digests, and renamed into place when they are complete.",
    )
    configure_logs(settings.log_format, settings.log_level)
    os.umask(_UMASK)
    code = 0
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(fetch(settings))
    except OSError as error:
        sys.stderr.write(
            f"{_PROGRAM}: the folder of models {settings.models} can't be written ({error.strerror or error}): mount "
            "it writable for the fetcher\n"
        )
        code = 1
    # Not by the interpreter's end: a thread of the S3 library that still finds its result then aborts the process.
    sys.stderr.flush()
    os._exit(code)


async def fetch(settings: FetcherSettings) -> None:
    """Fetches until SIGTERM or SIGINT. Raises `OSError` when the folder of models can't be written."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sources = sources_of(settings)
    fetcher = Fetcher(
        settings.server,
        settings.models,
        sources,
        Bounds(settings.max_bytes, settings.fetch_deadline),
        settings.keep_seconds,
        settings.revision,
    )
    url = settings.operator

    def connect(follower: Follower) -> Subscription:
        return Subscription(
            url or "",
            settings.server,
            str(uuid.uuid4()),
            settings.control_token_file,
            settings.operator_ca_file,
            follower,
            reports=False,
        )

    follower = Follower(
        fetcher,
        state_dir=None,
        plan_file=settings.plan_file,
        connect=connect if url is not None else None,
        is_ready=lambda: False,
        is_draining=lambda: False,
    )
    log.info("starting", server=settings.server, models=str(settings.models), schemes=sorted(sources))
    work = [asyncio.create_task(each) for each in (fetcher.run(), follower.run())]
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({*work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            await task  # it only ends by a fault, which is to be seen
    finally:
        for task in (*work, stopping):
            task.cancel()
        await asyncio.gather(*work, stopping, return_exceptions=True)
    log.info("stopped")


def sources_of(settings: FetcherSettings) -> dict[str, Source]:
    """By scheme, those that the settings allow."""
    sources: dict[str, Source] = {}
    if settings.allow_host:
        web = HttpsSource(
            settings.allow_host,
            plain=settings.allow_http,
            ca_file=settings.source_ca_file,
            netrc_file=settings.netrc_file,
            stall_seconds=settings.stall_timeout,
        )
        sources |= {"https": web} | ({"http": web} if settings.allow_http else {})
    if settings.s3_endpoint is not None:
        # Imported where it is used: it is large.
        from windlass_server.fetching.s3_source import S3Service, S3Source

        sources["s3"] = S3Source(
            S3Service(
                endpoint=settings.s3_endpoint.rstrip("/"),
                region=settings.s3_region,
                credentials=settings.s3_credentials_dir,
                ca_file=settings.source_ca_file,
                plain=settings.allow_http,
                stall_seconds=settings.stall_timeout,
            )
        )
    return sources
